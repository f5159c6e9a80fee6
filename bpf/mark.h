/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Keyed hashes: the cheap one of a flow's mark, and SipHash-2-4 of messages. */
#pragma once

static __always_inline __u64 folded(const struct address *a)
{
	if (is_v4(a))
		return bpf_ntohl(v4_of(a));
	__u64 low = bpf_be64_to_cpu(a->low);
	return bpf_be64_to_cpu(a->high) ^ (low << 32 | low >> 32);
}

static __always_inline __u64 mix(const struct settings *s, const struct flow_key *f, __u64 ports)
{
	__u64 x = (folded(&f->client) ^ s->hint_k0) * 0x9E3779B97F4A7C15ULL;

	x ^= x >> 32;
	x = (x ^ folded(&f->vip) ^ s->hint_k1) * 0xC2B2AE3D27D4EB4FULL;
	x ^= x >> 29;
	x = (x ^ ports) * 0x165667B19E3779F9ULL;
	return x ^ x >> 32;
}

static __always_inline __u64 mark_of(const struct settings *s, const struct flow_key *f)
{
	return mix(s, f, (__u64)bpf_ntohs(f->client_port) << 32 | (__u64)bpf_ntohs(f->vip_port) << 16 | f->protocol);
}

/* Of client and VIP alone. */
static __always_inline __u64 mark_of_address(const struct settings *s, const struct flow_key *f)
{
	return mix(s, f, 0);
}

static __always_inline __u8 mark_slot(__u64 mark)
{
	return mark >> 48 & 0xff;
}

static __always_inline __u8 mark_blind(__u64 mark)
{
	return mark & 0x3f;
}

static __always_inline __u16 mark_check(__u64 mark)
{
	return mark >> 32 & 0x3fff;
}

static __always_inline __u64 rotl64(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

#define SIP_ROUND                                                              \
	do {                                                                   \
		v0 += v1; v1 = rotl64(v1, 13); v1 ^= v0; v0 = rotl64(v0, 32);  \
		v2 += v3; v3 = rotl64(v3, 16); v3 ^= v2;                       \
		v0 += v3; v3 = rotl64(v3, 21); v3 ^= v0;                       \
		v2 += v1; v1 = rotl64(v1, 17); v1 ^= v2; v2 = rotl64(v2, 32);  \
	} while (0)

/* Over `words` little endian words and nothing else. */
static __always_inline __u64 siphash(const struct message_secret *key, const __u64 *data, int words)
{
	__u64 v0 = key->k0 ^ 0x736f6d6570736575ULL, v1 = key->k1 ^ 0x646f72616e646f6dULL;
	__u64 v2 = key->k0 ^ 0x6c7967656e657261ULL, v3 = key->k1 ^ 0x7465646279746573ULL;
	__u64 last = (__u64)(words * 8) << 56;

	for (int i = 0; i < words; i++) {
		v3 ^= data[i];
		SIP_ROUND;
		SIP_ROUND;
		v0 ^= data[i];
	}
	v3 ^= last;
	SIP_ROUND;
	SIP_ROUND;
	v0 ^= last;
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
