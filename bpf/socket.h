/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * "Is it ours?" is a question to the kernel's socket table. */
#pragma once

/* Of the kernel's structures what is read here; the loader finds the offsets (CO-RE). */
struct tcp_sock {
	__u32 rcv_nxt, rcv_wnd, snd_una, write_seq;
} __attribute__((preserve_access_index));

struct tcp_request_sock {
	__u32 rcv_isn, snt_isn;
} __attribute__((preserve_access_index));

struct sock_common {
	__u32 skc_tw_rcv_nxt, skc_tw_snd_nxt;
} __attribute__((preserve_access_index));

struct inet_timewait_sock {
	struct sock_common __tw_common;
} __attribute__((preserve_access_index));

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
} __attribute__((preserve_access_index));

enum found { SOCKET_NONE, SOCKET_LISTENER, SOCKET_FITS, SOCKET_UNFIT };

static __always_inline bool is_near(__u32 seq, __u32 rcv_nxt, __u32 ahead)
{
	__s64 offset = (__s32)(seq - rcv_nxt);

	return offset >= -(__s64)SEQ_MARGIN && offset <= (__s64)ahead;
}

/* Not up to snd_nxt but to what was written: the answer may be here before the sender has noted that it sent. */
static __always_inline bool acknowledges(const struct packet *p, __u32 snd_una, __u32 written)
{
	__u32 oldest = snd_una - ACK_MARGIN;

	return !(p->tcp_flags & TCP_ACK) || p->ack - oldest <= written - oldest;
}

static __always_inline bool fits_established(struct tcp_sock *tp, const struct packet *p)
{
	__u32 ahead = tp->rcv_wnd > WINDOW_LEAST ? tp->rcv_wnd : WINDOW_LEAST;

	return is_near(p->seq, tp->rcv_nxt, ahead) && acknowledges(p, tp->snd_una, tp->write_seq);
}

static __always_inline bool fits_request(struct tcp_request_sock *rsk, const struct packet *p)
{
	if (p->seq - (rsk->rcv_isn + 1) > WINDOW_LEAST)
		return false;
	return !(p->tcp_flags & TCP_ACK) || p->ack == rsk->snt_isn + 1;
}

static __always_inline bool fits_time_wait(struct tcp_timewait_sock *tw, const struct packet *p)
{
	__u32 sent = tw->tw_sk.__tw_common.skc_tw_snd_nxt;

	return is_near(p->seq, tw->tw_sk.__tw_common.skc_tw_rcv_nxt, WINDOW_LEAST) && acknowledges(p, sent, sent);
}

struct tuple4 {
	__be32 source, destination;
	__be16 source_port, destination_port;
};

struct tuple6 {
	struct address source, destination;
	__be16 source_port, destination_port;
};

_Static_assert(sizeof(struct tuple4) == sizeof(((struct bpf_sock_tuple *)0)->ipv4), "what the helpers take");

static __always_inline void tuple4_of(const struct packet *p, struct tuple4 *t)
{
	t->source = v4_of(&p->flow.client);
	t->destination = v4_of(&p->flow.vip);
	t->source_port = p->flow.client_port;
	t->destination_port = p->flow.vip_port;
}

static __always_inline void tuple6_of(const struct packet *p, struct tuple6 *t)
{
	t->source = p->flow.client;
	t->destination = p->flow.vip;
	t->source_port = p->flow.client_port;
	t->destination_port = p->flow.vip_port;
}

/* The length of the tuple says the family. */
#define LOOK_UP(helper, ctx, p)                                                                     \
	({                                                                                          \
		struct bpf_sock *_sk;                                                               \
		if ((p)->family == 4) {                                                             \
			struct tuple4 _t;                                                           \
			tuple4_of(p, &_t);                                                          \
			_sk = helper(ctx, (void *)&_t, sizeof(_t), BPF_F_CURRENT_NETNS, 0);         \
		} else {                                                                            \
			struct tuple6 _t;                                                           \
			tuple6_of(p, &_t);                                                          \
			_sk = helper(ctx, (void *)&_t, 36, BPF_F_CURRENT_NETNS, 0);                 \
		}                                                                                   \
		_sk;                                                                                \
	})

/* The flow is over once its socket has got this packet. */
static __always_inline bool ends_established(struct tcp_sock *tp, __u32 state, const struct packet *p)
{
	if (state == STATE_FIN_WAIT1 || state == STATE_FIN_WAIT2)
		return p->tcp_flags & TCP_FIN;
	if (state == STATE_LAST_ACK || state == STATE_CLOSING)
		return p->tcp_flags & TCP_ACK && p->ack == tp->write_seq;
	return false;
}

static __always_inline enum found fit_tcp(struct bpf_sock *sk, const struct packet *p, bool *ends)
{
	__u32 state = sk->state;
	bool fits = false;

	*ends = p->tcp_flags & TCP_RST || state == STATE_TIME_WAIT;

	if (state == STATE_LISTEN)
		return SOCKET_LISTENER;
	/* What an error quotes is ours, whatever its numbers; the stack looks at them. */
	if (p->error)
		return SOCKET_FITS;
	if (state == STATE_NEW_SYN_RECV) {
		struct tcp_request_sock *rsk = bpf_skc_to_tcp_request_sock(sk);
		fits = rsk && fits_request(rsk, p);
	} else if (state == STATE_TIME_WAIT) {
		struct tcp_timewait_sock *tw = bpf_skc_to_tcp_timewait_sock(sk);
		fits = tw && fits_time_wait(tw, p);
	} else {
		struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
		fits = tp && fits_established(tp, p);
		*ends = *ends || (tp && ends_established(tp, state, p));
	}
	return fits ? SOCKET_FITS : SOCKET_UNFIT;
}

/* `ends`: that of a packet which fits. */
static __noinline enum found find_tcp_end(CTX *ctx, const struct packet *p, bool *ends)
{
	struct bpf_sock *sk = LOOK_UP(bpf_skc_lookup_tcp, ctx, p);
	enum found found;

	*ends = false;
	if (!sk)
		return SOCKET_NONE;
	found = fit_tcp(sk, p, ends);
	bpf_sk_release(sk);
	return found;
}

static __always_inline enum found find_tcp(CTX *ctx, const struct packet *p)
{
	bool ends;

	return find_tcp_end(ctx, p, &ends);
}

/* What the helper looks at of the headers; those of the packet are parsed already. */
static __always_inline bool check_cookie(struct bpf_sock *sk, const struct packet *p)
{
	struct tcp_header tcp = {
		.source = p->flow.client_port,
		.destination = p->flow.vip_port,
		.seq = bpf_htonl(p->seq),
		.ack = bpf_htonl(p->ack),
		.offset = sizeof(tcp) / 4 << 4,
		.flags = p->tcp_flags,
	};

	if (p->family == 4) {
		struct ipv4_header ip = {
			.version_ihl = 0x45,
			.source = v4_of(&p->flow.client),
			.destination = v4_of(&p->flow.vip),
		};
		return !bpf_tcp_check_syncookie(sk, &ip, sizeof(ip), (void *)&tcp, sizeof(tcp));
	}
	struct ipv6_header ip = {
		.version_class_label = bpf_htonl(6U << 28),
		.source = p->flow.client,
		.destination = p->flow.vip,
	};
	return !bpf_tcp_check_syncookie(sk, &ip, sizeof(ip), (void *)&tcp, sizeof(tcp));
}

/* A listener takes the packet for the answer to a SYN cookie of its own. */
static __noinline bool answers_cookie(CTX *ctx, const struct packet *p, enum found found)
{
	struct bpf_sock *sk;
	bool valid;

	if (found != SOCKET_LISTENER || p->flow.protocol != PROTO_TCP ||
	    (p->tcp_flags & (TCP_ACK | TCP_SYN | TCP_RST | TCP_FIN)) != TCP_ACK)
		return false;
	sk = LOOK_UP(bpf_skc_lookup_tcp, ctx, p);
	if (!sk)
		return false;
	valid = sk->state == STATE_LISTEN && check_cookie(sk, p);
	bpf_sk_release(sk);
	return valid;
}

/* A connected socket; one that takes from everybody is no owner. */
static __noinline enum found find_udp(CTX *ctx, const struct packet *p)
{
	struct bpf_sock *sk = LOOK_UP(bpf_sk_lookup_udp, ctx, p);
	enum found found;

	if (!sk)
		return SOCKET_NONE;
	found = sk->dst_port ? SOCKET_FITS : SOCKET_LISTENER;
	bpf_sk_release(sk);
	return found;
}

static __always_inline enum found find_socket(CTX *ctx, const struct packet *p)
{
	return p->flow.protocol == PROTO_TCP ? find_tcp(ctx, p) : find_udp(ctx, p);
}
