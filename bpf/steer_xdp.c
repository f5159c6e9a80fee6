/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Native XDP on an uplink, in front of steer_tc.c: it ends what can be ended without a socket buffer, as tc would end it, and passes on all
 * else untouched and uncounted. What it does not know of need not be known here. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define CTX struct xdp_md
#define LOAD_BYTES bpf_xdp_load_bytes

#include "consts.h"
#include "structs.h"
#include "maps.h"
#include "parse.h"
#include "mark.h"
#include "socket.h"
#include "glance.h"
#include "decide.h"
#include "outer.h"
#include "way.h"

/* Events are made at tc. */
static __always_inline bool is_traced(const struct packet *p, const struct place *at)
{
	return at->settings->watching && bpf_map_lookup_elem(&watched, &p->flow);
}

/* Section 1, steps 3 to 8, as far as they tunnel to one member or drop; V_PASS: see what tc makes of it. */
static __noinline int foresee(struct xdp_md *ctx, const struct packet *p, const struct place *at, struct decision *d)
{
	enum found found = find_tcp(ctx, p);
	enum verdict v;

	if (found == SOCKET_FITS)
		return V_PASS;
	v = named(p, at, d);
	if (v != V_PASS)
		return v;
	return answers_cookie(ctx, p, found) ? V_PASS : refused(p, at);
}

/* A TCP packet to a service of ours, without IP options, extension headers and fragments. */
static __always_inline int finish(struct xdp_md *ctx, const struct packet *p, struct service *s)
{
	struct decision d = {};
	struct place at;
	int action = XDP_PASS;

	if (is_syn(p) || !find_rest(s, &at) || is_traced(p, &at) || is_forgotten(p, at.settings))
		return XDP_PASS;
	d.verdict = foresee(ctx, p, &at, &d);
	if (d.verdict == V_TUNNEL_HINT || d.verdict == V_TUNNEL_CACHE)
		action = tunnel(ctx, p, d.peer, word_of(KIND_DATA, d.check));
	else if (d.verdict != V_PASS)
		action = XDP_DROP;
	if (action == XDP_TX || action == XDP_DROP)
		count(d.verdict);
	return action;
}

static __always_inline int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct service *s = NULL;
	struct packet p;
	__be16 *kind = data + 12;
	bool v6;

	if (data + ETH_LEN > end)
		return XDP_PASS;
	v6 = *kind == bpf_htons(ETH_P_IPV6_);
	if ((!v6 && *kind != bpf_htons(ETH_P_IPV4)) || !glance(ctx, v6, &s) || !s)
		return XDP_PASS;
	if (parse(ctx, &p, ETH_LEN, v6) != PARSED_FLOW || p.protocol != PROTO_TCP || p.fragment != WHOLE)
		return XDP_PASS;
	return finish(ctx, &p, s);
}

SEC("xdp.frags")
int steer_xdp(struct xdp_md *ctx)
{
	return steer(ctx);
}

/* The same for a veth: after XDP_TX it wakes its other end only if that has a program too, after a redirection in any case. */
SEC("xdp.frags")
int steer_xdp_veth(struct xdp_md *ctx)
{
	int action = steer(ctx);

	return action == XDP_TX ? bpf_redirect(ctx->ingress_ifindex, 0) : action;
}

/* As in steer_tc.c. */
char _license[] SEC("license") = "GPL";
