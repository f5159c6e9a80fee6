/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * What the programs share with user space; crates/dataplane/src/steering/raw.rs has the same, with the same sizes. */
#pragma once

/* IPv4 addresses are ::ffff:a.b.c.d everywhere. Ports are big endian. */
struct address {
	__u64 high, low; /* big endian */
};

/* The end of a key is written as one word where it counts: hashing reads it in larger pieces than its fields, and what was just
 * written in smaller ones comes to it late. */
struct flow_key {
	struct address client, vip;
	union {
		struct {
			__be16 client_port, vip_port;
			__u8 protocol;
			__u8 zero[3];
		};
		__u64 end;
	};
};

struct service_key {
	struct address vip;
	union {
		struct {
			__be16 port;
			__u8 protocol;
			__u8 zero[5];
		};
		__u64 end;
	};
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FLOW_END(client_port, vip_port, protocol) \
	((__u64)(client_port) | (__u64)(vip_port) << 16 | (__u64)(protocol) << 32)
#define SERVICE_END(port, protocol) ((__u64)(port) | (__u64)(protocol) << 16)
#else
#define FLOW_END(client_port, vip_port, protocol) \
	((__u64)(client_port) << 48 | (__u64)(vip_port) << 32 | (__u64)(protocol) << 24)
#define SERVICE_END(port, protocol) ((__u64)(port) << 48 | (__u64)(protocol) << 40)
#endif

#define SERVICE_HINTS 1
#define SERVICE_PROBES 2

struct service {
	__u32 group;
	__u32 flags;
	__u64 udp_ask_until_ns;
};

#define SPREAD_BY_ADDRESS_AND_PORT 1
#define SPREAD_BY_ADDRESS 2

struct group {
	__u64 generation;
	/* Bits of member ids, without us. */
	__u64 live, takes_new;
	__u8 us, drains;
	__u8 spread; /* by what new flows are; 0 = they stay where they come */
	__u8 relay; /* id of the member that sends our answers on, plus one; 0 = they go directly */
	__u8 zero[4];
	/* By member id: index of the peer. */
	__u16 peers[MEMBERS_MAX];
	/* Ids of members. */
	__u8 slots[SLOTS];
};

struct peer {
	/* Interface towards it, by family; 0 = no way. */
	__u32 ifindex4, ifindex6;
	__be32 local4, remote4;
	/* The peer itself or the gateway towards it; 0 = ask the routing table. */
	__be32 next_hop4;
	__u32 zero;
	struct address local6, remote6, next_hop6;
};

struct member_key {
	struct address address;
	__u32 group;
	__u32 zero;
};

struct member {
	__u16 peer;
	__u8 id;
	__u8 zero;
};

struct message_secret {
	__u64 k0, k1;
	__u32 id;
	__u32 valid;
};

struct settings {
	__u64 hint_k0, hint_k1;
	struct message_secret secrets[2]; /* the first signs */
	__u64 retry_ns;
	/* One copy of a probe per so much time, and so much of it in advance. */
	__u64 copy_ns, burst_ns;
	__u32 retries;
	__u32 watching; /* there are flows in `watched` */
	/* Of messages: ours, and the one that it was, by which messages come as well; or ours again. */
	__be16 port, former_port;
	__u8 forgets_at_once; /* who owns a TCP flow, with its first FIN or RST */
	__u8 zero[3];
};

struct cached {
	__u8 id; /* of the member */
	__u8 zero[3];
};

struct question {
	__u64 last_ns;
	/* Bits of the members that have denied the packet with this seq and ack. */
	__u64 denied;
	__u32 seq, ack;
	__u16 number;
	__u8 probes;
	__u8 zero[5];
};

struct fragment_key {
	struct address source, destination;
	__u32 id;
	__u8 protocol;
	__u8 zero[3];
};

struct fragment_way {
	__u64 at_ns;
	__u8 verdict, member;
	__u8 zero[6];
};

struct peer_counters {
	__u64 packets, bytes;
	/* Found there by a claim, or sent there while we drain. */
	__u64 flows;
	/* That its process has said, and the loads in them, added up. */
	__u64 hellos, loads;
};

struct event {
	__u64 at_ns;
	struct flow_key flow;
	__u32 group;
	__u16 number;
	__u8 verdict;
	__u8 member;
};

/* The order is that of flow::verdict::Verdict. */
enum verdict {
	V_PASS,
	V_LOCAL_NEW,
	V_LOCAL_SOCKET,
	V_LOCAL_COOKIE,
	V_LOCAL_NONE,
	V_LOCAL_DENIED,
	V_LOCAL_OTHER,
	V_TUNNEL_NEW,
	V_TUNNEL_HINT,
	V_TUNNEL_CACHE,
	V_TUNNEL_ANSWER,
	V_PROBE,
	V_PROBE_TIMEOUT,
	V_PROBE_ERROR,
	V_PROBE_FRAGMENT,
	V_DELIVER_DATA,
	V_DELIVER_CLAIM,
	V_DENY,
	V_RETURN,
	V_RETURNED,
	V_RELAY_ANSWER,
	V_CLAIM_TAKEN,
	V_DENY_TAKEN,
	V_RELEASE,
	V_RELEASE_TAKEN,
	V_HELLO_ANSWERED,
	V_HELLO_HEARD,
	V_DROP_BUDGET,
	V_DROP_ASKED,
	V_DROP_ERROR,
	V_DROP_HEADERS,
	V_DROP_STRANGER,
	V_DROP_SPOOFED,
	V_DROP_CHECK,
	V_DROP_KIND,
	V_DROP_VERSION,
	V_DROP_LENGTH,
	V_DROP_KEY,
	V_DROP_MAC,
	V_DROP_QUESTION,
	V_DROP_FAMILY,
	V_DROP_ROOM,
	V_DROP_MTU,
	V_DROP_ROUTE,
	V_COUNT,
};

_Static_assert(sizeof(struct flow_key) == 40, "raw.rs");
_Static_assert(sizeof(struct service_key) == 24, "raw.rs");
_Static_assert(sizeof(struct service) == 16, "raw.rs");
_Static_assert(sizeof(struct group) == 416, "raw.rs");
_Static_assert(sizeof(struct peer) == 72, "raw.rs");
_Static_assert(sizeof(struct member_key) == 24, "raw.rs");
_Static_assert(sizeof(struct member) == 4, "raw.rs");
_Static_assert(sizeof(struct settings) == 104, "raw.rs");
_Static_assert(sizeof(struct event) == 56, "raw.rs");
