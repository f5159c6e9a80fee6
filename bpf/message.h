/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * CLAIM, DENY, RELEASE, HELLO and HEARD: docs/dev/steering.md, section 4. */
#pragma once

enum message_kind {
	MESSAGE_CLAIM = 1,
	MESSAGE_DENY = 2,
	MESSAGE_RELEASE = 3,
	MESSAGE_HELLO = 4,
	MESSAGE_HEARD = 5,
};

struct message {
	__u8 version, kind, member, protocol;
	__be32 key_id;
	__be16 unsigned_; /* counts as 0 */
	__be16 number; /* of the question, or of the hello */
	__be32 generation;
	struct address client, vip;
	__be16 client_port, vip_port;
	__be32 load; /* of HELLO: percent */
	__be64 mac;
};

union message_words {
	struct message m;
	__u64 words[8];
};

static __always_inline __be64 mac_of(const struct message_secret *key, union message_words *w)
{
	w->m.unsigned_ = 0;
	return bpf_cpu_to_be64(siphash(key, w->words, MESSAGE_MAC_OFF / 8));
}

/* What says who we are. */
static __always_inline void sign(union message_words *w, enum message_kind kind, const struct group *g,
				 const struct settings *set)
{
	w->m.kind = kind;
	w->m.member = g->us;
	w->m.key_id = bpf_htonl(set->secrets[0].id);
	w->m.generation = bpf_htonl((__u32)g->generation);
	w->m.mac = mac_of(&set->secrets[0], w);
}

static __always_inline void write_message(union message_words *w, enum message_kind kind, const struct flow_key *flow,
					  const struct group *g, const struct settings *set, __u16 number)
{
	__builtin_memset(w, 0, sizeof(*w));
	w->m.version = MESSAGE_VERSION;
	w->m.protocol = flow->protocol;
	w->m.number = bpf_htons(number);
	w->m.client = flow->client;
	w->m.vip = flow->vip;
	w->m.client_port = flow->client_port;
	w->m.vip_port = flow->vip_port;
	sign(w, kind, g, set);
}

static __always_inline void flow_of(const struct message *m, struct flow_key *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->client = m->client;
	flow->vip = m->vip;
	flow->client_port = m->client_port;
	flow->vip_port = m->vip_port;
	flow->protocol = m->protocol;
}

static __always_inline enum verdict verify(union message_words *w, const struct settings *set)
{
	for (int i = 0; i < 2; i++) {
		const struct message_secret *key = &set->secrets[i];

		if (!key->valid || w->m.key_id != bpf_htonl(key->id))
			continue;
		return mac_of(key, w) == w->m.mac ? V_PASS : V_DROP_MAC;
	}
	return V_DROP_KEY;
}

/* A CLAIM or DENY that answers this question. */
static __always_inline struct question *answered(const struct message *m, const struct flow_key *flow, __u64 now)
{
	struct question *q = bpf_map_lookup_elem(&questions, flow);

	if (!q || now - q->last_ns > QUESTION_TTL_NS || bpf_htons(q->number) != m->number)
		return NULL;
	return q;
}

static __always_inline void count_hello(__u16 peer, __u32 load)
{
	struct peer_counters *n = counters_of(peer);

	if (!n)
		return;
	n->hellos += 1;
	n->loads += load < LOAD_MAX ? load : LOAD_MAX;
}

static __always_inline bool names(const struct flow_key *flow, __u8 member)
{
	struct cached *c = bpf_map_lookup_elem(&cache, flow);

	return c && c->id == member;
}

static __always_inline enum verdict take_claim(const struct message *m, const struct flow_key *flow,
					       const struct member *from, __u64 now)
{
	struct cached entry = { .id = from->id };

	if (!answered(m, flow, now))
		return V_DROP_QUESTION;
	bpf_map_update_elem(&cache, flow, &entry, BPF_ANY);
	bpf_map_delete_elem(&questions, flow);
	count_flow(from->peer);
	return V_CLAIM_TAKEN;
}

static __always_inline enum verdict take_deny(const struct message *m, const struct flow_key *flow,
					      const struct member *from, __u64 now)
{
	struct question *q = answered(m, flow, now);

	if (!q)
		return V_DROP_QUESTION;
	__sync_fetch_and_or(&q->denied, 1ULL << (from->id & 63));
	if (names(flow, from->id))
		bpf_map_delete_elem(&cache, flow);
	return V_DENY_TAKEN;
}

/* What a message that is in order does. */
static __always_inline enum verdict take_message(const struct message *m, const struct flow_key *flow, __u32 group,
						 const struct member *from)
{
	__u64 now = bpf_ktime_get_ns();
	enum verdict v = V_DROP_KIND;

	if (m->kind == MESSAGE_CLAIM)
		v = take_claim(m, flow, from, now);
	else if (m->kind == MESSAGE_DENY)
		v = take_deny(m, flow, from, now);
	else if (m->kind == MESSAGE_RELEASE) {
		v = V_RELEASE_TAKEN;
		if (names(flow, from->id))
			bpf_map_delete_elem(&cache, flow);
	}
	if (v == V_CLAIM_TAKEN || v == V_DENY_TAKEN)
		tell(now, flow, group, v, from->id, bpf_ntohs(m->number));
	return v;
}
