//! Simulated histories of copies, driving the core alone.
