/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * The whole of steering, at tc ingress of an uplink; at its egress, what is to go through the primary. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define CTX struct __sk_buff
#define LOAD_BYTES bpf_skb_load_bytes

#include "consts.h"
#include "structs.h"
#include "maps.h"
#include "parse.h"
#include "mark.h"
#include "socket.h"
#include "glance.h"
#include "decide.h"
#include "message.h"
#include "too_big.h"
#include "tunnel.h"
#include "answer.h"
#include "relay.h"

/* A copy of the packet comes in again, see COPY_MAGIC. */
static __always_inline void copy_as(struct __sk_buff *skb, __u8 what, __u8 id, __u16 number, __u32 tells)
{
	skb->mark = (__u32)COPY_MAGIC << 24 | (__u32)what << 22 | (__u32)id << 16 | (__u32)(number & 0x3fff) << 2 | tells;
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	skb->mark = 0;
}

struct spread {
	struct __sk_buff *skb;
	__u64 copies;
	__u16 number;
};

static long spread_one(__u32 id, struct spread *s)
{
	__u64 bit = 1ULL << (id & 63);
	bool first = !(s->copies & (bit - 1));

	if (s->copies & bit)
		copy_as(s->skb, COPY_PROBE, id, s->number, first ? COPY_TELLS : 0);
	return 0;
}

static __always_inline int act(struct __sk_buff *skb, const struct packet *p, const struct decision *d)
{
	struct spread s = { .skb = skb, .copies = d->copies, .number = d->number };
	int action;

	switch (d->verdict) {
	case V_TUNNEL_NEW:
	case V_TUNNEL_HINT:
	case V_TUNNEL_CACHE:
		action = tunnel(skb, p, d->peer, word_of(KIND_DATA, d->check), TELL_CLIENT);
		if (d->verdict == V_TUNNEL_NEW && action != TC_ACT_SHOT)
			count_flow(d->peer);
		return counted(action, d->verdict);
	}
	count(d->verdict);
	switch (d->verdict) {
	case V_PROBE:
	case V_PROBE_ERROR:
		bpf_loop(MEMBERS_MAX, spread_one, &s, 0);
		return TC_ACT_SHOT;
	case V_PROBE_FRAGMENT:
		bpf_loop(MEMBERS_MAX, spread_one, &s, 0);
		return TC_ACT_UNSPEC;
	case V_DROP_BUDGET:
	case V_DROP_ASKED:
		return TC_ACT_SHOT;
	default:
		return TC_ACT_UNSPEC;
	}
}

/* `s`: its service, where that is known. */
static __always_inline int from_outside(struct __sk_buff *skb, const struct packet *p, struct service *s)
{
	struct decision d = {};
	struct place at;
	int action;

	if (!(s ? find_rest(s, &at) : find_place(p, &at)))
		return TC_ACT_UNSPEC;
	d.verdict = decide(skb, p, &at, &d);
	trace(&at, &p->flow, d.verdict, d.member);
	action = act(skb, p, &d);
	/* What could not be tunnelled is not followed. */
	if (p->fragment == FRAGMENT_FIRST)
		remember_fragment(p, action == TC_ACT_SHOT && d.verdict != V_PROBE ? V_DROP_ROOM : d.verdict, d.member);
	return action;
}

/* ICMP other than errors: to a VIP it is the stack's. */
static __always_inline int other(const struct packet *p)
{
	struct place at;

	if (!find_place_of(&p->flow, true, &at))
		return TC_ACT_UNSPEC;
	remember_fragment(p, V_LOCAL_OTHER, 0);
	count(V_LOCAL_OTHER);
	return TC_ACT_UNSPEC;
}

/* Section 2, RETURN: the member has no socket that the packet fits. */
static __always_inline int returned(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				    const struct place *at, const struct member *from, __u16 value)
{
	__u64 mark = mark_of(at->settings, &inner->flow);
	struct decision d = {};

	if (value != mark_check(mark))
		return drop(V_DROP_CHECK);
	if (names(&inner->flow, from->id))
		bpf_map_delete_elem(&cache, &inner->flow);
	distrust(mark);
	count(V_RETURNED);
	/* A new flow that nobody there takes stays here. */
	if (is_syn(inner))
		d.verdict = V_LOCAL_NEW;
	else if (inner->flow.protocol == PROTO_TCP)
		d.verdict = going_on(skb, inner, at, from->id + 1, &d);
	else
		d.verdict = decide_udp(skb, inner, at, from->id + 1, &d);
	trace(at, &inner->flow, V_RETURNED, from->id);
	trace(at, &inner->flow, d.verdict, d.member);
	if (decap(skb, outer))
		return drop(V_DROP_ROOM);
	return act(skb, inner, &d);
}

static __always_inline int deliver(struct __sk_buff *skb, const struct packet *outer, enum verdict v)
{
	if (decap(skb, outer))
		return drop(V_DROP_ROOM);
	count(v);
	return TC_ACT_UNSPEC;
}

static __always_inline int probed(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				  const struct place *at, enum found found, __u16 number)
{
	if (found != SOCKET_FITS && !answers_cookie(skb, inner, found)) {
		trace(at, &inner->flow, V_DENY, at->group->us);
		return counted(answer(skb, outer, inner, at, MESSAGE_DENY << 16 | number), V_DENY);
	}
	copy_as(skb, COPY_CLAIM, 0, number, 0);
	return deliver(skb, outer, V_DELIVER_CLAIM);
}

/* A new flow that is taken here; a datagram begins one only where new flows are spread. */
static __always_inline bool begins(const struct packet *inner, const struct group *g, enum found found)
{
	return found != SOCKET_NONE && (is_syn(inner) || (g->spread && inner->protocol == PROTO_UDP));
}

/* Section 2, DATA. */
static __always_inline int sent_here(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				     const struct place *at, const struct member *from, __u16 value)
{
	bool ends = false;
	enum found found = inner->protocol == PROTO_TCP ? find_tcp_end(skb, inner, &ends) : find_udp(skb, inner);

	if (found != SOCKET_FITS && !begins(inner, at->group, found) && !answers_cookie(skb, inner, found)) {
		trace(at, &inner->flow, V_RETURN, from->id);
		return give_back(skb, outer, value);
	}
	trace(at, &inner->flow, V_DELIVER_DATA, from->id);
	if (found == SOCKET_FITS && ends && !is_syn(inner)) {
		count(V_RELEASE);
		copy_as(skb, COPY_RELEASE, 0, 0, 0);
	}
	return deliver(skb, outer, V_DELIVER_DATA);
}

static __always_inline int by_kind(struct __sk_buff *skb, const struct packet *outer, const struct packet *inner,
				   const struct place *at, const struct member *from, __u16 word)
{
	__u16 value = word & 0x3fff;

	if (inner->fragment == FRAGMENT_LATER)
		return deliver(skb, outer, V_DELIVER_DATA);
	if (inner->error)
		return find_socket(skb, inner) == SOCKET_FITS ? deliver(skb, outer, V_DELIVER_DATA) : drop(V_DROP_ERROR);
	if (word >> 14 == KIND_RETURN)
		return returned(skb, outer, inner, at, from, value);
	if (word >> 14 == KIND_PROBE)
		return probed(skb, outer, inner, at, find_socket(skb, inner), value);
	if (word >> 14 == KIND_DATA)
		return sent_here(skb, outer, inner, at, from, value);
	return drop(V_DROP_KIND);
}

/* What leaves as several packets is as many copies each. */
static __always_inline __u16 segments_of(const struct __sk_buff *skb)
{
	return skb->gso_segs > 1 ? skb->gso_segs - 1 : 0;
}

/* The inner packet and its place; false: none of our business. */
static __always_inline bool look_inside(struct __sk_buff *skb, const struct packet *outer, struct packet *inner,
					struct place *at, __u16 *word)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	enum parsed parsed;

	if (outer->l4 > 100)
		return false;
	*word = word_at(outer, data, end);
	parsed = parse(skb, inner, outer->l4, outer->family == 6);
	inner->segments = segments_of(skb);
	return (parsed == PARSED_FLOW || inner->fragment == FRAGMENT_LATER) && find_place(inner, at);
}

static __always_inline int from_tunnel(struct __sk_buff *skb, const struct packet *outer)
{
	struct packet inner;
	struct place at;
	struct member *from;
	__u16 word;

	inner.family = 0;
	if (!look_inside(skb, outer, &inner, &at, &word))
		return relayed(skb, outer, inner.family);
	if (!find_sender(outer, &at, &from))
		return TC_ACT_UNSPEC;
	if (!from)
		return drop(V_DROP_STRANGER);
	if (find_member(&inner.flow.client, at.service->group))
		return drop(V_DROP_SPOOFED);
	return by_kind(skb, outer, &inner, &at, from, word);
}

/* Ours that came in again, as COPY_MAGIC says. */
static __always_inline int copied(struct __sk_buff *skb, const struct packet *p)
{
	__u32 mark = skb->mark;
	__u8 what = mark >> 22 & 3, id = mark >> 16 & 63;
	__u16 number = mark >> 2 & 0x3fff, word;
	struct packet inner;
	struct place at;
	enum message_kind kind = what == COPY_CLAIM ? MESSAGE_CLAIM : MESSAGE_RELEASE;

	skb->mark = 0;
	if (what == COPY_PROBE) {
		if (!find_place(p, &at))
			return TC_ACT_SHOT;
		return tunnel(skb, p, at.group->peers[id], word_of(KIND_PROBE, number),
			      mark & COPY_TELLS ? TELL_CLIENT : TELL_NOBODY);
	}
	if (!look_inside(skb, p, &inner, &at, &word))
		return TC_ACT_SHOT;
	tell(bpf_ktime_get_ns(), &inner.flow, at.service->group, what == COPY_CLAIM ? V_DELIVER_CLAIM : V_RELEASE,
	     at.group->us, number);
	return answer(skb, p, &inner, &at, kind << 16 | number);
}

/* The engines of an SE group have the same; of another one they hear one after the other. */
static __always_inline bool is_message_port(__be16 port)
{
	const struct settings *set = find_settings();

	return set && (port == set->port || port == set->former_port);
}

/* UDP to our port; it may be somebody else's, who serves no VIP of ours. */
static __noinline int message(struct __sk_buff *skb, const struct packet *p)
{
	union message_words w;
	struct flow_key flow;
	struct place at;
	struct member *from;
	enum verdict v;

	if (p->payload < MESSAGE_LEN || bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udp_header), &w, sizeof(w)))
		return TC_ACT_UNSPEC;
	flow_of(&w.m, &flow);
	if (!find_place_of(&flow, false, &at))
		return TC_ACT_UNSPEC;
	if (w.m.version != MESSAGE_VERSION)
		return drop(V_DROP_VERSION);
	if (p->payload > MESSAGE_LEN)
		return drop(V_DROP_LENGTH);
	from = find_member(&p->flow.client, at.service->group);
	if (!from || from->id != w.m.member)
		return drop(V_DROP_STRANGER);
	v = verify(&w, at.settings);
	if (v != V_PASS)
		return drop(v);
	if (w.m.kind == MESSAGE_HELLO) {
		count_hello(from->peer, bpf_ntohl(w.m.load));
		return counted(greet(skb, p, &w, &at), V_HELLO_ANSWERED);
	}
	/* For the process that has sent the hello. */
	if (w.m.kind == MESSAGE_HEARD)
		return counted(TC_ACT_UNSPEC, V_HELLO_HEARD);
	return drop(take_message(&w.m, &flow, at.service->group, from));
}

/* More headers before the transport than are walked: dropped where it is for a VIP. */
static __always_inline int chain(const struct packet *p)
{
	struct place at;

	if (!find_place_of(&p->flow, true, &at))
		return TC_ACT_UNSPEC;
	remember_fragment(p, V_DROP_HEADERS, 0);
	return drop(V_DROP_HEADERS);
}

SEC("classifier")
int steer(struct __sk_buff *skb)
{
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6_);
	struct packet p;
	struct service *s = NULL;
	enum parsed parsed;
	__u32 need = skb->len < 256 ? skb->len : 256;

	if (!v6 && skb->protocol != bpf_htons(ETH_P_IPV4))
		return TC_ACT_UNSPEC;
	if (skb->mark >> 24 != COPY_MAGIC && !glance(skb, v6, &s))
		return TC_ACT_UNSPEC;
	if ((void *)(long)skb->data + need > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, need);
	parsed = parse(skb, &p, ETH_LEN, v6);
	p.segments = segments_of(skb);
	if (skb->mark >> 24 == COPY_MAGIC)
		return copied(skb, &p);
	if (parsed == PARSED_FLOW && p.protocol == PROTO_UDP && is_message_port(p.flow.vip_port))
		return message(skb, &p);
	if (parsed == PARSED_FLOW || p.fragment == FRAGMENT_LATER)
		return from_outside(skb, &p, s);
	if (parsed == PARSED_CHAIN)
		return chain(&p);
	if (parsed == PARSED_OTHER && p.protocol == (v6 ? PROTO_IP6IP6 : PROTO_IPIP))
		return from_tunnel(skb, &p);
	if (parsed == PARSED_OTHER && p.protocol == (v6 ? PROTO_ICMP6 : PROTO_ICMP))
		return other(&p);
	return TC_ACT_UNSPEC;
}

/* At egress, where answers go through the primary. */
SEC("classifier")
int steer_out(struct __sk_buff *skb)
{
	return leave(skb);
}

/* What the kernel needs to hear for helpers that only GPL programs may call; it knows no name for GPL or Apache. */
char _license[] SEC("license") = "GPL";
