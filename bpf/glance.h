/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Before anything is parsed: is it for a service? */
#pragma once

/* The service of a TCP packet without options and extension headers, before it is read in full: most packets have none.
 * False: it has none. A glance that tells nothing leaves `s` alone. */
static __always_inline bool glance(CTX *ctx, bool v6, struct service **s)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv4_header *ip4 = data + ETH_LEN;
	struct ipv6_header *ip6 = data + ETH_LEN;
	struct service_key key;
	__be16 *ports = v6 ? (void *)(ip6 + 1) : (void *)(ip4 + 1);

	if ((void *)(ports + 2) > end)
		return true;
	if (v6) {
		if (ip6->next != PROTO_TCP)
			return true;
		key.vip = ip6->destination;
	} else {
		if (ip4->version_ihl != 0x45 || ip4->protocol != PROTO_TCP || ip4->frag_off & bpf_htons(0x3fff))
			return true;
		map_v4(&key.vip, ip4->destination);
	}
	key.end = SERVICE_END(ports[1], PROTO_TCP);
	*s = bpf_map_lookup_elem(&services, &key);
	return *s;
}
