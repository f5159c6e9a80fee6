/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * A packet that has no room for a tunnel header is answered as by a router on the way (RFC 1191, RFC 8201):
 *
 *   Ethernet | IP, from the VIP | ICMP: too big, what fits | the packet's beginning
 *
 * TCP offers a segment size that leaves room, so this is about datagrams. It is sent for packets without DF too: they are
 * fragments of a larger datagram, whose sender may cut it smaller. */
#pragma once

#define MTU_LEAST 1280
#define QUOTED_V4 68 /* the largest header, and 8 octets: RFC 792 */
#define QUOTED_V6 48

struct too_big_v4 {
	struct ipv4_header ip;
	__u8 type, code;
	__be16 check, unused, mtu;
	__u8 quoted[QUOTED_V4];
};

struct too_big_v6 {
	struct ipv6_header ip;
	__u8 type, code;
	__be16 check;
	__be32 mtu;
	__u8 quoted[QUOTED_V6];
};

_Static_assert(sizeof(struct too_big_v4) == 28 + QUOTED_V4, "no gaps");
_Static_assert(sizeof(struct too_big_v6) == 48 + QUOTED_V6, "no gaps");

/* What is taken away before: beyond where a sum may begin that a device is to complete. */
#define FORGOTTEN 128

static __always_inline __u16 folded16(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline int swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, macs, 12))
		return -1;
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, 12, 0);
}

static __always_inline __u32 header_len(const struct packet *p)
{
	return p->family == 4 ? sizeof(struct ipv4_header) : sizeof(struct ipv6_header);
}

static __always_inline __u32 ifindex_to(const struct packet *p, const struct peer *to)
{
	return p->family == 4 ? to->ifindex4 : to->ifindex6;
}

/* What is to be segmented on its way out is not: its segments get smaller (BPF_ADJ_ROOM_MAC without FIXED_GSO). */
static __always_inline bool is_too_big(struct __sk_buff *skb, const struct packet *p, const struct peer *to)
{
	__u32 mtu = 0;

	/* Every link takes that much (RFC 8200 section 5). */
	if (skb->len + header_len(p) <= ETH_LEN + MTU_LEAST)
		return false;
	return bpf_check_mtu(skb, ifindex_to(p, to), &mtu, header_len(p), 0) == BPF_MTU_CHK_RET_FRAG_NEEDED;
}

/* The packet becomes these bytes behind its Ethernet header. */
static __always_inline int become(struct __sk_buff *skb, void *bytes, __u32 len)
{
	return bpf_skb_adjust_room(skb, -FORGOTTEN, BPF_ADJ_ROOM_MAC, 0) ?: bpf_skb_change_tail(skb, ETH_LEN + len, 0) ?:
	       bpf_skb_store_bytes(skb, ETH_LEN, bytes, len, 0);
}

static __noinline int too_big_v4(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	struct too_big_v4 t = {
		.ip = { .version_ihl = 0x45, .ttl = TUNNEL_TTL, .protocol = PROTO_ICMP },
		.type = 3,
		.code = 4,
	};

	if (bpf_skb_load_bytes(skb, ETH_LEN, t.quoted, QUOTED_V4))
		return -1;
	t.ip.total_len = bpf_htons(sizeof(t));
	t.ip.source = v4_of(&p->flow.vip);
	t.ip.destination = v4_of(&p->flow.client);
	t.ip.check = ~folded16(bpf_csum_diff(NULL, 0, (__be32 *)&t.ip, sizeof(t.ip), 0));
	t.mtu = bpf_htons(mtu);
	t.check = ~folded16(bpf_csum_diff(NULL, 0, (__be32 *)&t.type, 8 + QUOTED_V4, 0));
	return become(skb, &t, sizeof(t));
}

static __noinline int too_big_v6(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	struct too_big_v6 t = {
		.ip = { .next = PROTO_ICMP6, .hop_limit = TUNNEL_TTL },
		.type = 2,
	};
	__u32 sum;

	if (bpf_skb_load_bytes(skb, ETH_LEN, t.quoted, QUOTED_V6))
		return -1;
	t.ip.version_class_label = bpf_htonl(6U << 28);
	t.ip.payload_len = bpf_htons(8 + QUOTED_V6);
	t.ip.source = p->flow.vip;
	t.ip.destination = p->flow.client;
	t.mtu = bpf_htonl(mtu);
	/* RFC 4443 section 2.3: with the pseudo-header. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)((void *)&t.ip + 8), 32, bpf_htonl(8 + QUOTED_V6));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&t.type, 8 + QUOTED_V6, sum);
	t.check = ~folded16(folded16(sum) + bpf_htons(PROTO_ICMP6));
	return become(skb, &t, sizeof(t));
}

/* Whom: nobody, the client that has sent it, or our own stack, which has. */
enum tell { TELL_NOBODY, TELL_CLIENT, TELL_HERE };

/* RFC 1122 section 3.2.2: errors are not about errors, nor about fragments but the first. */
static __always_inline void tell_too_big(struct __sk_buff *skb, const struct packet *p, const struct peer *to, enum tell whom)
{
	__u32 mtu = 0, room;

	if (p->error || p->fragment == FRAGMENT_LATER || skb->len < ETH_LEN + 2 * FORGOTTEN)
		return;
	bpf_check_mtu(skb, ifindex_to(p, to), &mtu, header_len(p), 0);
	room = mtu > header_len(p) ? mtu - header_len(p) : 0;
	if (p->family == 4 ? too_big_v4(skb, p, room) : too_big_v6(skb, p, room))
		return;
	if (!swap_macs(skb))
		bpf_clone_redirect(skb, skb->ifindex, whom == TELL_HERE ? BPF_F_INGRESS : 0);
}
