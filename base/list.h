/*
 * Intrusive doubly linked list. A node is on at most one list; an object's list is its state.
 * Not thread-safe: a list belongs to the thread that owns its objects.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define LIST_INIT(l)                                                                               \
	{                                                                                          \
		&(l), &(l)                                                                         \
	}

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list *l, struct list *node)
{
	node->prev = l->prev;
	node->next = l;
	l->prev->next = node;
	l->prev = node;
}

static inline void list_add_head(struct list *l, struct list *node)
{
	list_add_tail(l->next, node);
}

/* Leaves the node linked to itself, so removing twice is harmless. */
static inline void list_del(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

static inline struct list *list_pop(struct list *l)
{
	struct list *node = l->next;

	if (node == l)
		return NULL;
	list_del(node);
	return node;
}

/* Moves all of @from to the tail of @to. */
static inline void list_splice(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)

#define list_for_each(pos, l) for ((pos) = (l)->next; (pos) != (l); (pos) = (pos)->next)

#define list_for_each_safe(pos, tmp, l)                                                            \
	for ((pos) = (l)->next, (tmp) = (pos)->next; (pos) != (l);                                 \
	     (pos) = (tmp), (tmp) = (pos)->next)

#endif
