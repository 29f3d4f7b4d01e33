//! wconfd.
