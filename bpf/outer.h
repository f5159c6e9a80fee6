/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * What a tunnel packet has outside, and how it is counted: docs/dev/steering.md, section 3. */
#pragma once

enum kind { KIND_ANSWER = 0, KIND_DATA = 1, KIND_PROBE = 2, KIND_RETURN = 3 };

static __always_inline __u16 word_of(enum kind kind, __u16 value)
{
	return kind << 14 | (value & 0x3fff);
}

/* DSCP and ECN are those of the packet inside (RFC 6040 section 4.1, normal mode). */
static __always_inline void outer_v4(struct ipv4_header *ip, const struct peer *to, __u8 tos, __u16 len, __u16 word)
{
	/* In numbers, as their sum is of numbers (RFC 1071): all words but its own. */
	__u32 from = bpf_ntohl(to->local4), dest = bpf_ntohl(to->remote4);
	__u32 sum = (0x4500 | tos) + len + word + 0x4000 + (TUNNEL_TTL << 8 | PROTO_IPIP) + (from >> 16) +
		    (from & 0xffff) + (dest >> 16) + (dest & 0xffff);

	ip->version_ihl = 0x45;
	ip->tos = tos;
	ip->total_len = bpf_htons(len);
	ip->id = bpf_htons(word);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = TUNNEL_TTL;
	ip->protocol = PROTO_IPIP;
	ip->source = to->local4;
	ip->destination = to->remote4;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = bpf_htons(~sum);
}

static __always_inline void outer_v6(struct ipv6_header *ip, const struct peer *to, __u8 tos, __u16 len, __u16 word)
{
	ip->version_class_label = bpf_htonl(6U << 28 | (__u32)tos << 20 | (__u32)word << 4);
	ip->payload_len = bpf_htons(len);
	ip->next = PROTO_IP6IP6;
	ip->hop_limit = TUNNEL_TTL;
	ip->source = to->local6;
	ip->destination = to->remote6;
}

static __always_inline __u16 capped(__u32 len)
{
	return len > 65535 ? 65535 : len;
}

static __always_inline void note_check(struct seen_checks *seen, __u16 check)
{
	__u64 bit = 1ULL << (check & 63), *word = &seen->words[check >> 6 & 255];

	if (!(*word & bit))
		__sync_fetch_and_or(word, bit);
}

/* `len`: of the frame that came. */
static __always_inline void count_tunnelled(__u32 peer, __u32 len, __u16 word)
{
	struct peer_counters *n = bpf_map_lookup_elem(&tunnelled, &peer);
	struct seen_checks *seen;

	if (n) {
		n->packets += 1;
		n->bytes += len;
	}
	if (word >> 14 != KIND_DATA)
		return;
	seen = bpf_map_lookup_elem(&checks, &peer);
	if (seen)
		note_check(seen, word & 0x3fff);
}
