/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * From bytes to what decisions are made on. */
#pragma once

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct flow_key flow;
	__u32 seq, ack, tsecr, fragment_id;
	__u16 l3, l4;   /* offsets from the frame's start */
	__u16 payload;  /* of UDP */
	__u16 segments; /* that the kernel has made one packet of (GRO), less one; not parsed */
	__u8 family;    /* 4 or 6 */
	__u8 tcp_flags;
	__u8 has_tsecr; /* an option with a value other than 0 */
	__u8 tos;
	__u8 protocol;  /* of the last header, also where there is no flow */
	__u8 fragment;
	__u8 error;     /* an ICMP error; the flow is that of the packet it quotes, reversed */
};

enum fragment { WHOLE, FRAGMENT_FIRST, FRAGMENT_LATER };

enum parsed { PARSED_FLOW, PARSED_OTHER, PARSED_NOT_IP, PARSED_CHAIN };

static __always_inline void map_v4(struct address *to, __be32 v4)
{
	to->high = 0;
	to->low = bpf_htonl(0xffff) | (__u64)v4 << 32;
}

static __always_inline __be32 v4_of(const struct address *a)
{
	return a->low >> 32;
}

static __always_inline bool is_v4(const struct address *a)
{
	return a->high == 0 && (__u32)a->low == bpf_htonl(0xffff);
}

struct ipv4_header {
	__u8 version_ihl, tos;
	__be16 total_len, id, frag_off;
	__u8 ttl, protocol;
	__be16 check;
	__be32 source, destination;
};

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload_len;
	__u8 next, hop_limit;
	struct address source, destination;
};

_Static_assert(sizeof(struct ipv6_header) == 40, "no gaps");

struct tcp_header {
	__be16 source, destination;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

struct udp_header {
	__be16 source, destination, len, check;
};

struct tcp_options {
	__u8 bytes[40];
	__u32 len;
};

/* RFC 7323 section 3.2: kind 8, length 10, TSval, TSecr; 0 when there is none. Checked by the verifier once, not for each way here. */
__noinline __u32 tsecr_of(struct tcp_options *o)
{
	__u32 at = 0;

	if (!o)
		return 0;
	/* Thirty bytes of padding leave room for it. */
	for (int i = 0; i < 31; i++) {
		__u32 kind, len;

		if (at > 38 || at >= o->len)
			return 0;
		kind = o->bytes[at];
		len = o->bytes[at + 1];
		if (kind == 8 && len == 10 && at <= 30 && at + 10 <= o->len)
			return (__u32)o->bytes[at + 6] << 24 | (__u32)o->bytes[at + 7] << 16 |
			       (__u32)o->bytes[at + 8] << 8 | o->bytes[at + 9];
		if (kind == 0 || (kind != 1 && len < 2))
			return 0;
		at += kind == 1 ? 1 : len;
	}
	return 0;
}

/* Where Linux, macOS and Windows put it: after two bytes of padding. Anywhere else it takes a walk. */
static __always_inline __u32 find_timestamp(CTX *ctx, void *options, void *end, __u32 at, __u32 len)
{
	__be32 *word = options;
	struct tcp_options o = {};

	if (len >= 12 && (void *)(word + 3) <= end && word[0] == bpf_htonl(0x0101080a))
		return bpf_ntohl(word[2]);
	if (len > 40)
		return 0;
	if (len < 10 || LOAD_BYTES(ctx, at, o.bytes, len))
		return 0;
	o.len = len;
	return tsecr_of(&o);
}

static __always_inline enum parsed parse_tcp(CTX *ctx, void *data, void *end, struct packet *p)
{
	struct tcp_header *tcp = data + p->l4;
	__u32 len;

	if ((void *)(tcp + 1) > end)
		return PARSED_NOT_IP;
	p->flow.end = FLOW_END(tcp->source, tcp->destination, PROTO_TCP);
	p->seq = bpf_ntohl(tcp->seq);
	p->ack = bpf_ntohl(tcp->ack);
	p->tcp_flags = tcp->flags;
	len = (tcp->offset >> 4) * 4;
	if (len > sizeof(*tcp) && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		p->tsecr = find_timestamp(ctx, tcp + 1, end, p->l4 + sizeof(*tcp), len - sizeof(*tcp));
	p->has_tsecr = p->tsecr != 0;
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_transport(CTX *ctx, void *data, void *end, struct packet *p)
{
	struct udp_header *udp;

	p->flow.protocol = p->protocol;
	if (p->l4 > 400)
		return PARSED_NOT_IP;
	if (p->fragment == FRAGMENT_LATER)
		return PARSED_OTHER;
	if (p->protocol == PROTO_TCP)
		return parse_tcp(ctx, data, end, p);
	if (p->protocol != PROTO_UDP)
		return PARSED_OTHER;
	udp = data + p->l4;
	if ((void *)(udp + 1) > end)
		return PARSED_NOT_IP;
	p->flow.client_port = udp->source;
	p->flow.vip_port = udp->destination;
	p->payload = bpf_ntohs(udp->len) < sizeof(*udp) ? 0 : bpf_ntohs(udp->len) - sizeof(*udp);
	return PARSED_FLOW;
}

static __always_inline enum parsed parse_v4(CTX *ctx, void *data, void *end, struct packet *p)
{
	struct ipv4_header *ip = data + p->l3;
	__u32 len;

	if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
		return PARSED_NOT_IP;
	len = (ip->version_ihl & 15) * 4;
	if (len < sizeof(*ip))
		return PARSED_NOT_IP;
	p->family = 4;
	p->tos = ip->tos;
	p->protocol = ip->protocol;
	p->fragment = ip->frag_off & bpf_htons(0x1fff)   ? FRAGMENT_LATER
		      : ip->frag_off & bpf_htons(0x2000) ? FRAGMENT_FIRST
							 : WHOLE;
	p->fragment_id = ip->id;
	p->l4 = p->l3 + len;
	map_v4(&p->flow.client, ip->source);
	map_v4(&p->flow.vip, ip->destination);
	return parse_transport(ctx, data, end, p);
}

static __always_inline bool is_version_6(const struct ipv6_header *ip)
{
	return (ip->version_class_label & bpf_htonl(0xf0000000)) == bpf_htonl(0x60000000);
}

static __always_inline enum parsed parse_v6(CTX *ctx, void *data, void *end, struct packet *p)
{
	struct ipv6_header *ip = data + p->l3;
	__u8 next;
	__u32 at;

	if ((void *)(ip + 1) > end || !is_version_6(ip))
		return PARSED_NOT_IP;
	p->family = 6;
	p->tos = bpf_ntohl(ip->version_class_label) >> 20;
	p->flow.client = ip->source;
	p->flow.vip = ip->destination;
	next = ip->next;
	at = p->l3 + sizeof(*ip);
	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		__u8 *here = data + at;
		/* Hop-by-hop, routing, destination options; fragment. Behind that of a later one comes data. */
		if (p->fragment == FRAGMENT_LATER || (next != 0 && next != 43 && next != 60 && next != 44)) {
			p->protocol = next;
			p->l4 = at;
			return parse_transport(ctx, data, end, p);
		}
		if (i == EXTENSIONS_MAX)
			break;
		if (at > 300 || (void *)(here + 8) > end)
			return PARSED_NOT_IP;
		__u32 len = next == 44 ? 8 : (here[1] + 1) * 8;
		if (next == 44) {
			p->fragment = here[2] || here[3] & 0xf8 ? FRAGMENT_LATER : here[3] & 1 ? FRAGMENT_FIRST : WHOLE;
			p->fragment_id = *(__u32 *)(here + 4);
		}
		next = here[0];
		at += len;
	}
	return PARSED_CHAIN;
}

/* Destination unreachable, time exceeded, parameter problem; of IPv6 also packet too big. */
static __always_inline bool is_error(const struct packet *p, __u8 type)
{
	if (p->family == 4)
		return p->protocol == PROTO_ICMP && (type == 3 || type == 11 || type == 12);
	return p->protocol == PROTO_ICMP6 && type >= 1 && type <= 4;
}

/* What is quoted went from the VIP to the client. Nothing is written before all of it has been read. */
static __always_inline bool parse_quoted(void *data, void *end, struct packet *p)
{
	__u8 *icmp = data + p->l4;
	struct ipv4_header *ip4 = (void *)(icmp + 8);
	struct ipv6_header *ip6 = (void *)(icmp + 8);
	__be16 *ports;
	__u32 at = p->l4 + 8;
	__u8 protocol;

	if (p->l4 > 300 || (void *)(icmp + 8) > end || !is_error(p, icmp[0]))
		return false;
	if (p->family == 4) {
		if ((void *)(ip4 + 1) > end || ip4->frag_off & bpf_htons(0x1fff) || ip4->version_ihl >> 4 != 4 ||
		    (ip4->version_ihl & 15) < 5)
			return false;
		protocol = ip4->protocol;
		at += (ip4->version_ihl & 15) * 4;
	} else {
		if ((void *)(ip6 + 1) > end || !is_version_6(ip6))
			return false;
		protocol = ip6->next;
		at += sizeof(*ip6);
	}
	ports = data + at;
	if (at > 400 || (void *)(ports + 2) > end || (protocol != PROTO_TCP && protocol != PROTO_UDP))
		return false;
	if (p->family == 4) {
		map_v4(&p->flow.client, ip4->destination);
		map_v4(&p->flow.vip, ip4->source);
	} else {
		p->flow.client = ip6->destination;
		p->flow.vip = ip6->source;
	}
	p->flow.vip_port = ports[0];
	p->flow.client_port = ports[1];
	p->flow.protocol = protocol;
	p->error = 1;
	return true;
}

/* The packet whose IP header is at `l3`; gives an `enum parsed`. Checked once, as tsecr_of. */
__noinline int parse(CTX *ctx, struct packet *p, __u32 l3, int v6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	enum parsed parsed;

	if (!p || l3 > 100)
		return PARSED_NOT_IP;
	__builtin_memset(p, 0, sizeof(*p));
	p->l3 = l3;
	parsed = v6 ? parse_v6(ctx, data, end, p) : parse_v4(ctx, data, end, p);
	if (parsed == PARSED_OTHER && p->fragment != FRAGMENT_LATER && parse_quoted(data, end, p))
		return PARSED_FLOW;
	return parsed;
}
