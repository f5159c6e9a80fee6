/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * The decision of docs/dev/steering.md, sections 1 and 2, in its order; crates/flow/src/decide.rs is the same. */
#pragma once

struct decision {
	__u64 copies;  /* probe: ids of the members */
	__u16 peer;    /* tunnel: where to */
	__u16 number;  /* probe: of the question */
	__u8 member;
	__u8 verdict;
	__u16 check;
};

static __always_inline void count(enum verdict v)
{
	__u32 key = v;
	__u64 *n = bpf_map_lookup_elem(&verdicts, &key);

	if (n)
		*n += 1;
}

static __always_inline void tell(__u64 now, const struct flow_key *flow, __u32 group, enum verdict v, __u8 member, __u16 number)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return;
	e->at_ns = now;
	e->flow = *flow;
	e->group = group;
	e->number = number;
	e->verdict = v;
	e->member = member;
	bpf_ringbuf_submit(e, 0);
}

/* An event for a packet of a flow that is traced. */
static __noinline int notice(const struct flow_key *flow, __u32 group, __u32 verdict, __u32 member)
{
	__u64 *until = bpf_map_lookup_elem(&watched, flow);
	__u64 now = bpf_ktime_get_ns();

	if (until && now < *until)
		tell(now, flow, group, verdict, member, 0);
	return 0;
}

static __always_inline struct service *find_service(const struct flow_key *flow, bool whole_vip)
{
	struct service_key key = { .vip = flow->vip };

	if (!whole_vip)
		key.end = SERVICE_END(flow->vip_port, flow->protocol);
	return bpf_map_lookup_elem(&services, &key);
}

static __always_inline struct group *find_group(const struct service *s)
{
	__u32 key = s->group;

	return bpf_map_lookup_elem(&groups, &key);
}

static __always_inline struct settings *find_settings(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&settings, &key);
}

/* What a packet meets: its service and who else holds it. */
struct place {
	struct service *service;
	struct group *group;
	struct settings *settings;
};

static __always_inline bool find_rest(struct service *s, struct place *at)
{
	at->service = s;
	if (!s)
		return false;
	at->group = find_group(s);
	at->settings = find_settings();
	return at->group && at->settings;
}

static __always_inline void trace(const struct place *at, const struct flow_key *flow, enum verdict v, __u8 member)
{
	if (at->settings->watching)
		notice(flow, at->service->group, v, member);
}

static __always_inline bool find_place_of(const struct flow_key *flow, bool whole_vip, struct place *at)
{
	return find_rest(find_service(flow, whole_vip), at);
}

static __always_inline struct member *find_member(const struct address *a, __u32 group)
{
	struct member_key key = { .address = *a, .group = group };

	return bpf_map_lookup_elem(&members, &key);
}

/* The member that has sent us this tunnel packet; NULL: a stranger. False: it is not to us. */
static __always_inline bool find_sender(const struct packet *outer, const struct place *at, struct member **from)
{
	struct member *us = find_member(&outer->flow.vip, at->service->group);

	if (!us || us->id != at->group->us)
		return false;
	*from = find_member(&outer->flow.client, at->service->group);
	if (*from && (*from)->id == at->group->us)
		*from = NULL;
	return true;
}

/* What has no ports is found by the VIP alone. */
static __always_inline bool find_place(const struct packet *p, struct place *at)
{
	return find_place_of(&p->flow, p->fragment == FRAGMENT_LATER, at);
}

static __always_inline bool is_live(const struct group *g, __u8 id)
{
	return id < MEMBERS_MAX && (g->live >> (id & 63) & 1);
}

/* One cost more, or too early: the generic cell rate algorithm. `tat` is when the bucket would be full again. */
static __always_inline bool take(__u64 *tat, __u64 now, __u64 cost, __u64 burst)
{
	for (int i = 0; i < 4; i++) {
		__u64 old = *tat, from = old > now ? old : now;

		if (from - now > burst)
			return false;
		if (__sync_val_compare_and_swap(tat, old, from + cost) == old)
			return true;
	}
	return false;
}

/* What `take` refuses. */
static __always_inline bool is_spent(const __u64 *tat, __u64 now, __u64 burst)
{
	__u64 full = *tat;

	return full > now && full - now > burst;
}

static __always_inline void share_of(const struct packet *p, __u32 group, struct share_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->group = group;
	key->network = p->flow.client;
	if (p->family == 4)
		key->network.low &= bpf_cpu_to_be64(~0xffULL);
	else {
		key->network.high &= bpf_cpu_to_be64(~0xffULL);
		key->network.low = 0;
	}
}

static __always_inline bool take_share(const struct packet *p, __u32 group, __u64 now, __u64 cost, __u64 burst)
{
	struct share_key key;
	__u64 *tat, fresh = now + cost;

	share_of(p, group, &key);
	tat = bpf_map_lookup_elem(&shares, &key);
	if (tat)
		return take(tat, now, cost, burst);
	bpf_map_update_elem(&shares, &key, &fresh, BPF_ANY);
	return true;
}

static __always_inline __u64 *find_budget(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&budget, &zero);
}

/* How much of the budget a packet may draw on. */
static __always_inline __u64 burst_for(const struct packet *p, const struct settings *set)
{
	bool last = p->tcp_flags & (TCP_RST | TCP_FIN) || p->error || p->fragment == FRAGMENT_LATER;

	return last ? set->burst_ns / 2 : set->burst_ns;
}

/* So many copies within the budget? An eighth of it is the most that one network may have of a group. */
static __always_inline bool may_copy(const struct packet *p, __u32 group, const struct settings *set, __u64 now, __u32 copies)
{
	__u64 *tat = find_budget();
	__u64 cost = set->copy_ns * copies, burst = burst_for(p, set);

	if (!tat || !take_share(p, group, now, cost * 8, burst))
		return false;
	return take(tat, now, cost * (p->segments + 1), burst);
}

/* Whether `may_copy` would say no. If it would say yes, nothing is taken; if no, the network pays what it would pay there:
 * its share, also where nothing is left for anybody. */
static __always_inline bool may_not_copy(const struct packet *p, __u32 group, const struct settings *set, __u64 now,
					 __u32 copies)
{
	__u64 *tat = find_budget(), *share;
	__u64 burst = burst_for(p, set);
	struct share_key key;

	if (!tat)
		return false;
	if (is_spent(tat, now, burst)) {
		take_share(p, group, now, set->copy_ns * copies * 8, burst);
		return true;
	}
	share_of(p, group, &key);
	share = bpf_map_lookup_elem(&shares, &key);
	return share && is_spent(share, now, burst);
}

static __always_inline __u32 bits(__u64 x)
{
	x -= x >> 1 & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return x * 0x0101010101010101ULL >> 56;
}

static __always_inline __u64 bit(__u8 id)
{
	return 1ULL << (id & 63);
}

/* The question is about this very packet; datagrams have no numbers, and count as the same for a shorter time. */
static __always_inline bool is_about(const struct question *q, const struct packet *p, __u64 age)
{
	__u64 ttl = p->flow.protocol == PROTO_TCP ? DENIED_TTL_NS : QUESTION_TTL_NS;

	return q->seq == p->seq && q->ack == p->ack && age < ttl;
}

/* What is known of the question about a packet. */
struct asked {
	struct question *question;
	__u64 denied, age;
	bool same, open;
};

static __always_inline void find_question(const struct packet *p, __u64 now, struct asked *a)
{
	struct question *q = bpf_map_lookup_elem(&questions, &p->flow);

	a->question = q;
	a->age = q ? now - q->last_ns : 0;
	a->same = q && is_about(q, p, a->age);
	a->open = q && a->age < QUESTION_TTL_NS;
	a->denied = a->same ? q->denied : 0;
}

/* V_PROBE: it may be asked now, if the budget allows it. */
static __always_inline enum verdict unasked(const struct packet *p, const struct place *at, const struct asked *a)
{
	const struct settings *set = at->settings;
	const struct group *g = at->group;

	if (!(at->service->flags & SERVICE_PROBES) || !g->live)
		return V_LOCAL_NONE;
	if (!(g->live & ~a->denied))
		return V_LOCAL_DENIED;
	if (a->open && a->question && (a->age < set->retry_ns || a->question->probes > set->retries))
		return a->age < set->retry_ns || p->flow.protocol == PROTO_TCP ? V_DROP_ASKED : V_LOCAL_NEW;
	return V_PROBE;
}

/* Section 1, step 8. `returner`: the member that has returned the packet, plus one. */
static __noinline int ask(const struct packet *p, const struct place *at, __u8 returner, struct decision *d)
{
	const struct service *s = at->service;
	const struct settings *set = at->settings;
	const struct group *g = at->group;
	__u64 now = bpf_ktime_get_ns();
	struct question next = { .last_ns = now, .seq = p->seq, .ack = p->ack, .probes = 1 };
	struct asked a;
	enum verdict v;

	find_question(p, now, &a);
	if (returner) {
		a.denied |= bit(returner - 1);
		if (a.same && a.question)
			__sync_fetch_and_or(&a.question->denied, bit(returner - 1));
	}
	v = unasked(p, at, &a);
	if (v != V_PROBE)
		return v;
	if (!may_copy(p, s->group, set, now, bits(g->live & ~a.denied)))
		return V_DROP_BUDGET;
	next.number = a.same && a.question ? a.question->number : bpf_get_prandom_u32() % 0x3fff + 1;
	next.denied = a.denied;
	if (a.open && a.question)
		next.probes += a.question->probes;
	if (a.question && g->live & ~a.question->denied)
		count(V_PROBE_TIMEOUT);
	bpf_map_update_elem(&questions, &p->flow, &next, BPF_ANY);
	d->copies = g->live & ~a.denied;
	d->number = next.number;
	tell(now, &p->flow, s->group, V_PROBE, next.probes, next.number);
	return V_PROBE;
}

static __always_inline struct peer_counters *counters_of(__u16 peer)
{
	__u32 key = peer;

	return bpf_map_lookup_elem(&tunnelled, &key);
}

/* A flow is at that peer. */
static __always_inline void count_flow(__u16 peer)
{
	struct peer_counters *n = counters_of(peer);

	if (n)
		n->flows += 1;
}

/* Whether `ask` would have the packet dropped, without asking; V_PASS: it would not. */
static __always_inline enum verdict refused(const struct packet *p, const struct place *at)
{
	__u64 now = bpf_ktime_get_ns();
	struct asked a;
	enum verdict v;

	find_question(p, now, &a);
	v = unasked(p, at, &a);
	if (v == V_DROP_ASKED)
		return v;
	if (v == V_PROBE && may_not_copy(p, at->service->group, at->settings, now, bits(at->group->live & ~a.denied)))
		return V_DROP_BUDGET;
	return V_PASS;
}

static __always_inline enum verdict to_member(const struct group *g, __u8 id, enum verdict v, struct decision *d)
{
	d->member = id;
	d->peer = g->peers[id & 63];
	return v;
}

static __always_inline bool distrusted(__u64 mark)
{
	__u32 zero = 0, bit = mark >> 16 & 0xffff;
	struct no_hint_bits *b = bpf_map_lookup_elem(&no_hint, &zero);

	return !b || (b->words[bit >> 6 & 1023] >> (bit & 63) & 1);
}

static __always_inline void distrust(__u64 mark)
{
	__u32 zero = 0, bit = mark >> 16 & 0xffff;
	struct no_hint_bits *b = bpf_map_lookup_elem(&no_hint, &zero);

	if (b)
		__sync_fetch_and_or(&b->words[bit >> 6 & 1023], 1ULL << (bit & 63));
}

/* Rendezvous hashing: who of these takes a new flow. */
struct choice {
	__u64 mark, takers, most;
	__u32 best; /* id plus one */
	__u32 zero;
};

static long weigh(__u32 id, struct choice *c)
{
	__u64 x;

	if (!(c->takers >> (id & 63) & 1))
		return 0;
	x = (c->mark ^ ((__u64)id + 1) * 0x9E3779B97F4A7C15ULL) * 0xC2B2AE3D27D4EB4FULL;
	x ^= x >> 32;
	if (!c->best || x > c->most) {
		c->most = x;
		c->best = id + 1;
	}
	return 0;
}

static __always_inline int chosen(__u64 takers, __u64 mark)
{
	struct choice c = { .mark = mark, .takers = takers };

	bpf_loop(MEMBERS_MAX, weigh, &c, 0);
	return (int)c.best - 1;
}

/* Id of the other member that a new flow is for; below 0: it stays here. */
static __noinline int taker(CTX *ctx, const struct packet *p, const struct place *at)
{
	const struct group *g = at->group;
	__u64 takers = g->takes_new & g->live, us = 0, mark;
	int id;

	if (!g->spread)
		return g->drains ? chosen(takers, mark_of(at->settings, &p->flow)) : -1;
	if (!g->drains && find_socket(ctx, p) != SOCKET_NONE)
		us = bit(g->us);
	takers |= us;
	mark = g->spread == SPREAD_BY_ADDRESS ? mark_of_address(at->settings, &p->flow) : mark_of(at->settings, &p->flow);
	id = g->slots[mark_slot(mark)];
	if (id >= MEMBERS_MAX || !(takers >> (id & 63) & 1))
		id = chosen(takers, mark);
	return us >> (id & 63) & 1 ? -1 : id;
}

static __always_inline enum verdict new_flow(CTX *ctx, const struct packet *p, const struct place *at,
					     struct decision *d)
{
	const struct group *g = at->group;
	struct cached entry = {};
	int id = taker(ctx, p, at);

	if (id < 0)
		return V_LOCAL_NEW;
	entry.id = id;
	bpf_map_update_elem(&cache, &p->flow, &entry, BPF_ANY);
	return to_member(g, id, V_TUNNEL_NEW, d);
}

static __always_inline bool hinted(const struct packet *p, const struct service *s, const struct group *g, __u64 mark,
				   struct decision *d)
{
	__u8 id = (p->tsecr >> HINT_SHIFT & 0x3f) ^ mark_blind(mark);

	if (!(s->flags & SERVICE_HINTS) || !p->has_tsecr || !is_live(g, id) || distrusted(mark))
		return false;
	to_member(g, id, V_TUNNEL_HINT, d);
	return true;
}

static __always_inline bool remembered(const struct packet *p, const struct group *g, struct decision *d)
{
	struct cached *c = bpf_map_lookup_elem(&cache, &p->flow);

	if (!c || !is_live(g, c->id))
		return false;
	d->member = c->id;
	d->peer = g->peers[c->id & 63];
	return true;
}

/* With this packet who owns its flow is forgotten. */
static __always_inline bool is_forgotten(const struct packet *p, const struct settings *set)
{
	return set->forgets_at_once && p->tcp_flags & (TCP_FIN | TCP_RST);
}

/* Section 1, steps 4 and 5; V_PASS: nobody is named. */
static __always_inline enum verdict named(const struct packet *p, const struct place *at, struct decision *d)
{
	__u64 mark = mark_of(at->settings, &p->flow);

	d->check = mark_check(mark);
	if (hinted(p, at->service, at->group, mark, d))
		return V_TUNNEL_HINT;
	if (!remembered(p, at->group, d))
		return V_PASS;
	if (is_forgotten(p, at->settings))
		bpf_map_delete_elem(&cache, &p->flow);
	return V_TUNNEL_CACHE;
}

/* Section 1, steps 3 to 8. */
static __noinline int going_on(CTX *ctx, const struct packet *p, const struct place *at, __u8 returner,
			       struct decision *d)
{
	enum found found = find_tcp(ctx, p);
	enum verdict v;

	if (found == SOCKET_FITS)
		return V_LOCAL_SOCKET;
	v = named(p, at, d);
	if (v != V_PASS)
		return v;
	if (answers_cookie(ctx, p, found))
		return V_LOCAL_COOKIE;
	if (found == SOCKET_NONE && !at->group->live)
		return V_LOCAL_NONE;
	return ask(p, at, returner, d);
}

static __always_inline bool is_syn(const struct packet *p)
{
	return p->flow.protocol == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline enum verdict decide_tcp(CTX *ctx, const struct packet *p, const struct place *at,
					       struct decision *d)
{
	if (!is_syn(p))
		return going_on(ctx, p, at, 0, d);
	d->check = mark_check(mark_of(at->settings, &p->flow));
	bpf_map_delete_elem(&cache, &p->flow);
	return new_flow(ctx, p, at, d);
}

static __noinline int decide_udp(CTX *ctx, const struct packet *p, const struct place *at, __u8 returner,
				 struct decision *d)
{
	const struct service *s = at->service;
	const struct settings *set = at->settings;
	const struct group *g = at->group;
	enum verdict v = V_LOCAL_NEW;

	if (find_udp(ctx, p) == SOCKET_FITS)
		return V_LOCAL_SOCKET;
	d->check = mark_check(mark_of(set, &p->flow));
	if (remembered(p, g, d))
		return V_TUNNEL_CACHE;
	if (bpf_ktime_get_ns() <= s->udp_ask_until_ns)
		v = ask(p, at, returner, d);
	if (v != V_LOCAL_NEW && v != V_LOCAL_DENIED && v != V_LOCAL_NONE)
		return v;
	return g->spread && !returner ? new_flow(ctx, p, at, d) : V_LOCAL_NEW;
}

/* An ICMP error: to whoever has the socket. No question is kept. */
static __always_inline enum verdict decide_error(CTX *ctx, const struct packet *p, const struct service *s,
						 const struct group *g, const struct settings *set, struct decision *d)
{
	if (find_socket(ctx, p) == SOCKET_FITS)
		return V_LOCAL_SOCKET;
	d->check = mark_check(mark_of(set, &p->flow));
	if (remembered(p, g, d))
		return V_TUNNEL_CACHE;
	if (!(s->flags & SERVICE_PROBES) || !g->live)
		return V_LOCAL_OTHER;
	if (!may_copy(p, s->group, set, bpf_ktime_get_ns(), bits(g->live)))
		return V_DROP_BUDGET;
	d->copies = g->live;
	return V_PROBE_ERROR;
}

static __always_inline void fragment_key(const struct packet *p, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = p->flow.client;
	key->destination = p->flow.vip;
	key->id = p->fragment_id;
	/* RFC 8200 section 4.5: of IPv6 the fragments may differ in it. */
	key->protocol = p->family == 4 ? p->protocol : 0;
}

/* Where the first fragment of a datagram went, its others follow. Of an ICMP error the addresses are no longer known. */
static __always_inline void remember_fragment(const struct packet *p, enum verdict verdict, __u8 member)
{
	struct fragment_key key;
	struct fragment_way way = { .at_ns = bpf_ktime_get_ns(), .verdict = verdict, .member = member };

	if (p->fragment != FRAGMENT_FIRST || p->error)
		return;
	fragment_key(p, &key);
	bpf_map_update_elem(&fragments, &key, &way, BPF_ANY);
}

static __always_inline enum verdict decide_fragment(const struct packet *p, const struct service *s,
						    const struct group *g, const struct settings *set,
						    struct decision *d)
{
	struct fragment_key key;
	struct fragment_way *way;
	__u64 now = bpf_ktime_get_ns();

	fragment_key(p, &key);
	way = bpf_map_lookup_elem(&fragments, &key);
	if (way && now - way->at_ns > FRAGMENT_TTL_NS)
		way = NULL;
	if (way && is_live(g, way->member) &&
	    (way->verdict == V_TUNNEL_CACHE || way->verdict == V_TUNNEL_HINT || way->verdict == V_TUNNEL_NEW))
		return to_member(g, way->member, way->verdict, d);
	if ((way && way->verdict != V_PROBE) || !g->live || !(s->flags & SERVICE_PROBES))
		return V_LOCAL_OTHER;
	if (!may_copy(p, s->group, set, now, bits(g->live)))
		return V_LOCAL_OTHER;
	d->copies = g->live;
	return V_PROBE_FRAGMENT;
}

static __always_inline enum verdict decide(CTX *ctx, const struct packet *p, const struct place *at, struct decision *d)
{
	if (p->fragment == FRAGMENT_LATER)
		return decide_fragment(p, at->service, at->group, at->settings, d);
	if (p->error)
		return decide_error(ctx, p, at->service, at->group, at->settings, d);
	return p->protocol == PROTO_TCP ? decide_tcp(ctx, p, at, d) : (enum verdict)decide_udp(ctx, p, at, 0, d);
}
