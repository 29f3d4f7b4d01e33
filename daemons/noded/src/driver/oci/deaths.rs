//! Deaths that vmd tells of, as the driver's callers name VMs.

use super::Oci;
use crate::driver::{Class, DriverError, VmId};
use gantry_proto::vmd::{Death, Show, VmName};
use gantry_rpc::{CallError, Code, Event};
use tokio::sync::mpsc;

impl Oci {
    /// See [`crate::driver::Driver::deaths`].
    pub(super) async fn tell_deaths(&self, told: mpsc::Sender<Option<VmId>>) -> Result<(), DriverError> {
        let (client, mut stream) = self.helper.deaths().await?;
        loop {
            let news = match stream.next().await {
                Ok(Event::Item(Death::Begun)) => None,
                Ok(Event::Item(Death::Of(name))) => match self.dead(&name).await {
                    None => continue,
                    vm => vm,
                },
                Ok(Event::End(())) => return Ok(()),
                // A vmd of before, which lives on when noded is replaced, tells nothing. The next one may.
                Err(CallError::Fail(fail)) if fail.code == Code::UnknownVerb => {
                    client.closed().await;
                    return Ok(());
                }
                Err(error) => return Err(DriverError::new(Class::Locked, error.to_string())),
            };
            if told.send(news).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Which VM of this cluster that is. One that is removed by now is nobody's loss any more.
    async fn dead(&self, name: &VmName) -> Option<VmId> {
        let facts = self.helper.call::<Show>(name).await.ok()?;
        self.label(&facts).map(|label| label.vm)
    }
}
