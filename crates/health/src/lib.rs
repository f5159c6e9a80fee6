//! Health monitor core: rise and fall of a server, without I/O.
