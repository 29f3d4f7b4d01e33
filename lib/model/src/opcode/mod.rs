//! Ganeti opcodes: table and validation.
