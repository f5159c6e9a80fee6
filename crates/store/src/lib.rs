//! Revisioned key-value store: memory and SQLite behind one trait.
