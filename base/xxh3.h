/*
 * XXH3 at the speed of the processor at hand: the library's own dispatcher picks AVX2 or AVX-512 at
 * run time, its plain functions were built for every x86-64 there is. The hash is the same.
 */
#ifndef BASE_XXH3_H
#define BASE_XXH3_H

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif

#endif
