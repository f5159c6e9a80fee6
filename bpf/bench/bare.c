/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * `evenkeel-bench steering`: a driver that makes packet after packet for the program under test, and bare programs that do
 * one thing each, to compare it with. IPv4.
 *
 * BPF_PROG_TEST_RUN repeats a program on one and the same buffer. So the driver is what is repeated: it puts the
 * buffer back as it was, writes the next flow into it and tail-calls the program under test. What the driver itself costs is measured
 * with `nothing` under test, what putting back costs with the programs at the end. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define FLOWS_MAX (1 << 19)
/* No eviction among so many flows: an LRU map frees some before it is full. */
#define LRU_MAX (FLOWS_MAX + (1 << 16))
#define OUTER_LEN sizeof(struct iphdr)
#define TTL 64

struct flow {
	__be32 client;
	__be16 port;
	__u16 zero;
	__be32 tsecr;
	__be32 forger; /* another client, of no network in particular */
};

/* User space: what is run through; in an order that is not that of memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS_MAX);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct control {
	__u32 next, mask; /* index of the next flow, and how many there are less one */
	__u32 target;     /* program under test */
	__u32 len;        /* of the frame as it comes */
	__u32 inside;     /* the flow is in a tunnel packet */
	__u32 forged;     /* clients of all networks */
	__u32 tsecr_mask; /* 0: no hint */
	struct iphdr outer;
};

/* User space, and the driver: one entry. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* User space: what can be under test. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 32);
	__uint(key_size, 4);
	__uint(value_size, 4);
} targets SEC(".maps");

static __always_inline int take_off(struct __sk_buff *skb)
{
	return bpf_skb_adjust_room(skb, -(__s32)OUTER_LEN, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int put_on(struct __sk_buff *skb, const struct iphdr *outer)
{
	return bpf_skb_adjust_room(skb, OUTER_LEN, BPF_ADJ_ROOM_MAC, 0) ?:
	       bpf_skb_store_bytes(skb, ETH_HLEN, outer, OUTER_LEN, 0);
}

/* As it came: the program under test took an outer header off or put one on. */
static __always_inline int put_back(struct __sk_buff *skb, const struct control *c)
{
	if (skb->len == c->len)
		return 0;
	return skb->len > c->len ? take_off(skb) : put_on(skb, &c->outer);
}

static __always_inline int write_into(void *data, void *end, const struct control *c, const struct flow *f, __u32 at)
{
	struct iphdr *ip = data + at;
	struct tcphdr *tcp = (void *)(ip + 1);
	__be32 *options = (void *)(tcp + 1);

	if ((void *)(options + 3) > end)
		return -1;
	ip->saddr = c->forged ? f->forger : f->client;
	tcp->source = f->port;
	options[2] = f->tsecr & c->tsecr_mask;
	return 0;
}

static __always_inline int write_at(struct __sk_buff *skb, const struct control *c, const struct flow *f, __u32 at)
{
	return write_into((void *)(long)skb->data, (void *)(long)skb->data_end, c, f, at);
}

SEC("classifier")
int driver(struct __sk_buff *skb)
{
	__u32 zero = 0, at;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct flow *f;

	if (!c || put_back(skb, c))
		return TC_ACT_STOLEN;
	at = c->next++ & c->mask;
	f = bpf_map_lookup_elem(&flows, &at);
	if (!f || (c->inside ? write_at(skb, c, f, ETH_HLEN + OUTER_LEN) : write_at(skb, c, f, ETH_HLEN)))
		return TC_ACT_STOLEN;
	bpf_tail_call(skb, &targets, c->target);
	return TC_ACT_STOLEN;
}

SEC("classifier")
int nothing(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_UNSPEC;
}

/* The bare programs: an IPv4 header without options, and TCP. */
struct headers {
	struct iphdr *ip;
	struct tcphdr *tcp;
};

static __always_inline bool parse(struct __sk_buff *skb, struct headers *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	h->ip = data + ETH_HLEN;
	h->tcp = (void *)(h->ip + 1);
	return skb->protocol == bpf_htons(ETH_P_IP) && (void *)(h->tcp + 1) <= end && h->ip->version == 4 &&
	       h->ip->ihl == 5 && h->ip->protocol == IPPROTO_TCP && !(h->ip->frag_off & bpf_htons(0x3fff));
}

/* Of either family, as katran's. */
struct vip_key {
	__be32 vip[4];
	__be16 port;
	__u8 protocol, zero;
};

/* User space: as many VIPs as the steering program has. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct vip_key);
	__type(value, __u64);
} vips SEC(".maps");

SEC("classifier")
int vip(struct __sk_buff *skb)
{
	struct vip_key key = { .protocol = IPPROTO_TCP };
	struct headers h;

	if (!parse(skb, &h))
		return TC_ACT_UNSPEC;
	key.vip[0] = h.ip->daddr;
	key.port = h.tcp->dest;
	return bpf_map_lookup_elem(&vips, &key) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* TC_ACT_OK: there is one, be it a listener. */
static __always_inline int look_up_socket(struct __sk_buff *skb, const struct headers *h)
{
	struct bpf_sock_tuple tuple;
	struct bpf_sock *sk;

	tuple.ipv4.saddr = h->ip->saddr;
	tuple.ipv4.daddr = h->ip->daddr;
	tuple.ipv4.sport = h->tcp->source;
	tuple.ipv4.dport = h->tcp->dest;
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return TC_ACT_UNSPEC;
	bpf_sk_release(sk);
	return TC_ACT_OK;
}

SEC("classifier")
int socket(struct __sk_buff *skb)
{
	struct headers h;

	return parse(skb, &h) ? look_up_socket(skb, &h) : TC_ACT_UNSPEC;
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* To 10.2.0.11 from 10.2.0.12, out of the loopback interface: test-run sends nothing. */
static __always_inline int encapsulate(struct __sk_buff *skb)
{
	__u32 sum = 0;
	union {
		struct iphdr ip;
		__u16 words[10];
	} outer = {};

	outer.ip.version = 4;
	outer.ip.ihl = 5;
	outer.ip.tot_len = bpf_htons(skb->len - ETH_HLEN + OUTER_LEN);
	outer.ip.ttl = TTL;
	outer.ip.protocol = IPPROTO_IPIP;
	outer.ip.saddr = bpf_htonl(0x0a02000c);
	outer.ip.daddr = bpf_htonl(0x0a02000b);
	for (int i = 0; i < 10; i++)
		sum += outer.words[i];
	outer.ip.check = ~folded(sum);
	if (put_on(skb, &outer.ip))
		return TC_ACT_STOLEN;
	return bpf_redirect_neigh(1, NULL, 0, 0);
}

SEC("classifier")
int encap(struct __sk_buff *skb)
{
	struct headers h;

	return parse(skb, &h) ? encapsulate(skb) : TC_ACT_UNSPEC;
}

SEC("classifier")
int socket_encap(struct __sk_buff *skb)
{
	struct headers h;

	if (!parse(skb, &h) || look_up_socket(skb, &h) == TC_ACT_UNSPEC)
		return TC_ACT_UNSPEC;
	return encapsulate(skb);
}

struct flow_key {
	__be32 client, vip;
	__be16 client_port, vip_port;
	__u32 protocol;
};

/* The program below. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LRU_MAX);
	__type(key, struct flow_key);
	__type(value, __u32);
} lru SEC(".maps");

static __always_inline void key_of(const struct headers *h, struct flow_key *key)
{
	key->client = h->ip->saddr;
	key->vip = h->ip->daddr;
	key->client_port = h->tcp->source;
	key->vip_port = h->tcp->dest;
	key->protocol = IPPROTO_TCP;
}

SEC("classifier")
int lru_fill(struct __sk_buff *skb)
{
	struct flow_key key = {};
	struct headers h;
	__u32 owner = 1;

	if (!parse(skb, &h))
		return TC_ACT_STOLEN;
	key_of(&h, &key);
	return bpf_map_update_elem(&lru, &key, &owner, BPF_ANY) ? TC_ACT_STOLEN : TC_ACT_UNSPEC;
}

SEC("classifier")
int lru_encap(struct __sk_buff *skb)
{
	struct flow_key key = {};
	struct headers h;

	if (!parse(skb, &h))
		return TC_ACT_UNSPEC;
	key_of(&h, &key);
	return bpf_map_lookup_elem(&lru, &key) ? encapsulate(skb) : TC_ACT_UNSPEC;
}

/* What putting back costs: each pair differs by seven times of it, and leaves the frame as it was. */
#define TIMES 8

SEC("classifier")
int off_once(struct __sk_buff *skb)
{
	if (bpf_skb_adjust_room(skb, TIMES * OUTER_LEN, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_adjust_room(skb, -(__s32)(TIMES * OUTER_LEN), BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_STOLEN;
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int off_often(struct __sk_buff *skb)
{
	if (bpf_skb_adjust_room(skb, TIMES * OUTER_LEN, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_STOLEN;
	for (int i = 0; i < TIMES; i++)
		if (take_off(skb))
			return TC_ACT_STOLEN;
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int on_once(struct __sk_buff *skb)
{
	struct iphdr outer = { .version = 4, .ihl = 5 };

	if (put_on(skb, &outer) || take_off(skb))
		return TC_ACT_STOLEN;
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int on_often(struct __sk_buff *skb)
{
	struct iphdr outer = { .version = 4, .ihl = 5 };

	for (int i = 0; i < TIMES; i++)
		if (put_on(skb, &outer))
			return TC_ACT_STOLEN;
	if (bpf_skb_adjust_room(skb, -(__s32)(TIMES * OUTER_LEN), BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_STOLEN;
	return TC_ACT_UNSPEC;
}

/* The least that a program on the wire can do: the frame goes back with its addresses exchanged, which undoes itself. */
SEC("xdp")
int xdp_tx(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u8 swap[ETH_ALEN];

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(swap, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, swap, ETH_ALEN);
	return XDP_TX;
}

SEC("xdp")
int xdp_nothing(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

/* The same driver for a program of native XDP, which takes no tail calls from one that knows no fragments. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 8);
	__uint(key_size, 4);
	__uint(value_size, 4);
} front_targets SEC(".maps");

/* The outer header goes; the Ethernet header was in front of it. */
static __always_inline int front_off(struct xdp_md *ctx)
{
	void *data, *end;
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, OUTER_LEN))
		return -1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > end)
		return -1;
	__builtin_memset(eth, 0, 2 * ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	return 0;
}

SEC("xdp.frags")
int front_driver(struct xdp_md *ctx)
{
	__u32 zero = 0, at;
	struct control *c = bpf_map_lookup_elem(&control, &zero);
	struct flow *f;

	if (!c || (bpf_xdp_get_buff_len(ctx) != c->len && front_off(ctx)))
		return XDP_ABORTED;
	at = c->next++ & c->mask;
	f = bpf_map_lookup_elem(&flows, &at);
	if (!f || write_into((void *)(long)ctx->data, (void *)(long)ctx->data_end, c, f, ETH_HLEN))
		return XDP_ABORTED;
	bpf_tail_call(ctx, &front_targets, c->target);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int front_nothing(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

static __always_inline int front_times(struct xdp_md *ctx, int times)
{
	if (bpf_xdp_adjust_head(ctx, -(TIMES * (int)OUTER_LEN)) ||
	    bpf_xdp_adjust_head(ctx, (TIMES - times) * (int)OUTER_LEN))
		return XDP_ABORTED;
	for (int i = 0; i < times; i++)
		if (front_off(ctx))
			return XDP_ABORTED;
	return XDP_PASS;
}

SEC("xdp.frags")
int front_off_once(struct xdp_md *ctx)
{
	return front_times(ctx, 1);
}

SEC("xdp.frags")
int front_off_often(struct xdp_md *ctx)
{
	return front_times(ctx, TIMES);
}

/* Helpers that only GPL programs may call. */
char _license[] SEC("license") = "GPL";
