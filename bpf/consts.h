/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 * Limits and numbers, each with its reason. Those that shape the wire are in docs/dev/steering.md. */
#pragma once

/* Members of a group: six bits in a hint. */
#define MEMBERS_MAX 64
#define GROUPS_MAX 1024
#define PEERS_MAX 512
#define SERVICES_MAX 65536
/* Flows that are traced at a time. */
#define WATCHED_MAX 64

/* How far behind rcv_nxt a segment may begin: a client whose acknowledgments were lost repeats its whole window. */
#define SEQ_MARGIN (1 << 26)
/* How far behind snd_una an acknowledgment may lie: what reordering leaves behind. */
#define ACK_MARGIN (1 << 20)
#define WINDOW_LEAST 65535

/* Parts that the new flows of a natively scaled VIP are cut into: a part is less than half a percent. */
#define SLOTS 256

#define QUESTION_TTL_NS 2000000000ULL
/* The longest distance of two retransmissions. */
#define DENIED_TTL_NS 120000000000ULL
/* The fragments of a datagram follow each other closely. */
#define FRAGMENT_TTL_NS 2000000000ULL

#define MESSAGE_VERSION 1
#define MESSAGE_LEN 64
/* Network control, as what routers say to each other. */
#define MESSAGE_TOS 0xc0
#define MESSAGE_MAC_OFF 56
/* What a HELLO can say, in percent. */
#define LOAD_MAX 100

#define TUNNEL_TTL 64
/* Congestion experienced (RFC 3168). */
#define ECN_CE 3
#define HINT_SHIFT 24

/* IPv6 extension headers that are walked. */
#define EXTENSIONS_MAX 6

/* A copy that comes in again, to become a probe or an answer:
 * magic (8 bits), what it becomes (2), member id (6), number of the question (14), COPY_TELLS (1), 1 unused. */
#define COPY_MAGIC 0xE7
#define COPY_PROBE 0
#define COPY_CLAIM 1
#define COPY_RELEASE 2
/* No copy: see relay.h. */
#define COPY_RELAYED 3
/* Of the copies of a probe, the one that tells the client what keeps them from going. */
#define COPY_TELLS 2

#define ETH_LEN 14
#define ETH_P_IPV4 0x0800
#define ETH_P_IPV6_ 0x86DD

#define PROTO_ICMP 1
#define PROTO_IPIP 4
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_IP6IP6 41
#define PROTO_ICMP6 58

/* Asked for routes as of our own packets. */
#define LOOPBACK_IFINDEX 1

#define AF_INET_ 2
#define AF_INET6_ 10

#define STATE_FIN_WAIT1 4
#define STATE_FIN_WAIT2 5
#define STATE_TIME_WAIT 6
#define STATE_LAST_ACK 9
#define STATE_LISTEN 10
#define STATE_CLOSING 11
#define STATE_NEW_SYN_RECV 12
