#include "base/bytes.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

bool bytes_all_zero(const void *p, size_t len)
{
	const unsigned char *b = p;
	uint64_t acc[8];

	/* Most data shows a set bit in its first words: look there before streaming. */
	while (len && ((uintptr_t)b & 7)) {
		if (*b)
			return false;
		b++;
		len--;
	}
	while (len >= sizeof(acc)) {
		memcpy(acc, b, sizeof(acc));
		if (acc[0] | acc[1] | acc[2] | acc[3] | acc[4] | acc[5] | acc[6] | acc[7])
			return false;
		b += sizeof(acc);
		len -= sizeof(acc);
	}
	while (len) {
		if (*b)
			return false;
		b++;
		len--;
	}
	return true;
}

#ifdef __x86_64__
__attribute__((target("avx"))) static void copy_stream_avx(void *dst, const void *src, size_t len)
{
	__m256i *d = dst;
	const __m256i *s = src;
	size_t i, n = len / sizeof(*d);

	for (i = 0; i + 4 <= n; i += 4) {
		__m256i a = _mm256_loadu_si256(s + i), b = _mm256_loadu_si256(s + i + 1);
		__m256i c = _mm256_loadu_si256(s + i + 2), e = _mm256_loadu_si256(s + i + 3);

		_mm256_stream_si256(d + i, a);
		_mm256_stream_si256(d + i + 1, b);
		_mm256_stream_si256(d + i + 2, c);
		_mm256_stream_si256(d + i + 3, e);
	}
	for (; i < n; i++)
		_mm256_stream_si256(d + i, _mm256_loadu_si256(s + i));
	_mm_sfence();
	memcpy((char *)dst + n * sizeof(*d), (const char *)src + n * sizeof(*d),
	       len - n * sizeof(*d));
}
#endif

void bytes_copy_stream(void *dst, const void *src, size_t len)
{
#ifdef __x86_64__
	if (len >= 4096 && __builtin_cpu_supports("avx")) {
		size_t head = -(uintptr_t)dst & 31;

		memcpy(dst, src, head);
		copy_stream_avx((char *)dst + head, (const char *)src + head, len - head);
		return;
	}
#endif
	memcpy(dst, src, len);
}
