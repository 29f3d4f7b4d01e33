//! noded.
