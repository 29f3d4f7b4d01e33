//! LuxiD: the one LUXI server and the owner of the job queue (DESIGN §6).
//!
//! It stores jobs durably, schedules them, starts one process per job and learns of its end; it answers
//! queries from its copy of the configuration. It takes no lock and changes no configuration: wconfd
//! does, asked by the jobs.

pub mod core;
