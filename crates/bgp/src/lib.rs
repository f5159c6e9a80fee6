//! BGP speaker core: messages, session machine and adj-RIB-out, without I/O.
