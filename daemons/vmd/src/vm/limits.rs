//! What a running VM may use.

use super::Vm;
use crate::error::{Class, fail, io as io_fail};
use crate::io::stage;
use gantry_proto::envelope::Fail;
use gantry_proto::noded::OpenLimits;
use gantry_proto::vmd;
use std::io;

impl Vm {
    /// Sets limits of a running VM, at most those it was created with.
    ///
    /// # Errors
    /// It does not run, or the limits are above its own, or the kernel refuses them.
    pub fn limit(&self, limits: &vmd::VmLimits) -> Result<(), Fail> {
        let mut inner = self.inner();
        if !inner.runs() {
            return Err(self.not_running(&inner));
        }
        let own = &self.request.limits;
        if limits.memory_mib > own.memory_mib
            || limits.cpu_percent > own.cpu_percent
            || limits.pids > own.pids
        {
            return Err(fail(Class::Refused, "limits above those the VM was created with"));
        }
        // Not known until they are set: a failure may leave some of them.
        let held = inner.limits.take();
        if held != Some(*limits) {
            self.cgroup.limit(limits, held.as_ref()).map_err(|error| io_fail("set limits", &error))?;
        }
        inner.limits = Some(*limits);
        Ok(())
    }

    /// Sets limits and scratch room of a running VM; None = its own.
    ///
    /// # Errors
    /// As [`Vm::limit`] and [`Vm::room`]; above its own nothing is changed.
    pub fn confine(&self, wanted: Option<OpenLimits>) -> Result<(), Fail> {
        let (own, room) = (self.request.limits, self.request.scratch_mib);
        let Some(OpenLimits { memory_mib, pids, disk_mib }) = wanted else {
            self.limit(&own)?;
            return self.room(room);
        };
        let above = memory_mib > own.memory_mib || pids > own.pids || disk_mib > room;
        if above || memory_mib == 0 || pids == 0 || disk_mib == 0 {
            let text = format!(
                "limits must be from 1 to the VM's own: {} MiB of memory, {} processes, {room} MiB of disk",
                own.memory_mib, own.pids
            );
            return Err(fail(Class::Refused, text));
        }
        self.limit(&vmd::VmLimits { memory_mib, pids, cpu_percent: own.cpu_percent })?;
        self.room(disk_mib)
    }

    /// Sets the size of its scratch room, at most its own.
    ///
    /// # Errors
    /// Above its own; less than is in use; the kernel's.
    pub fn room(&self, mib: u64) -> Result<(), Fail> {
        if mib == 0 || mib > self.request.scratch_mib {
            return Err(fail(
                Class::Refused,
                "a scratch room of nothing, or above the one the VM was created with",
            ));
        }
        let mut inner = self.inner();
        if inner.scratch_mib != mib {
            stage::resize(&self.request.vm, mib).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => {
                    fail(Class::NoSpace, format!("more than {mib} MiB are in use"))
                }
                _ => io_fail("resize the scratch room", &error),
            })?;
            inner.scratch_mib = mib;
        }
        Ok(())
    }
}
