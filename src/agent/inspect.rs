//! Inspection of a running machine.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};
use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        context::command::Inspection,
        error::Error,
        request::call::Call,
        vm::{patience::patient, screen},
    },
    hypervisor::{HypervisorError, Info, InfoType, Machine, Picture},
    sys::pair_in_passing,
};

/// How long a hypervisor may take to answer all queries of a call.
const PATIENCE: Duration = Duration::from_secs(4);

impl Agent {
    /// Returns vmadm's `info`: a key for each named type; all when none is named. Only callers who may use
    /// the screen get its password.
    pub async fn vm_info<S: AsRef<str>>(
        &self,
        uuid: Uuid,
        types: &[S],
        with_password: bool,
    ) -> Result<Info, Error> {
        let types = InfoType::parse_list(types).map_err(|why| Error::invalid("types", why))?;
        let looked = async {
            // Includes the wait for the VM's actor.
            let look = self.inspect(uuid, "get info for").await?;
            let vm = self.vm(uuid)?;
            let password = vm.vnc_password().filter(|_| with_password);
            let mut info = Info::new();
            for (name, kind) in types {
                let value = match kind {
                    InfoType::Vnc => vnc(look.vnc, password),
                    kind => look.machine.info(kind).await?,
                };
                info.insert(name.to_owned(), value);
            }
            Ok(info)
        };
        timeout(PATIENCE, looked).await.unwrap_or(Err(HypervisorError::silent(PATIENCE).into()))
    }

    async fn inspect(&self, uuid: Uuid, what: &'static str) -> Result<Inspection, Error> {
        self.context.registry.get(uuid)?.inspect(what).await
    }

    /// Returns the machine of a VM that has a screen.
    async fn screen_of(&self, uuid: Uuid, what: &'static str) -> Result<Arc<dyn Machine>, Error> {
        let machine = self.inspect(uuid, what).await?.machine;
        screen::check(&*self.vm(uuid)?).map(|()| machine)
    }

    /// Fails unless the VM runs.
    pub async fn check_running(&self, uuid: Uuid) -> Result<(), Error> {
        self.inspect(uuid, "get info for").await.map(drop)
    }

    /// Opens an RFB connection to the guest's screen.
    pub async fn connect_vnc(&self, call: &Call, uuid: Uuid) -> Result<UnixStream, Error> {
        let machine = self.screen_of(uuid, "connect to the screen of").await?;
        self.journal_call(call, Some(uuid), "ConnectVnc", "").await;
        let (ours, theirs) = pair_in_passing().map_err(Error::internal)?;
        ours.set_nonblocking(true).map_err(Error::internal)?;
        let ours = UnixStream::from_std(ours).map_err(Error::internal)?;
        // The caller's role was already checked.
        patient(machine.add_vnc_client(theirs.into(), true)).await?;
        Ok(ours)
    }

    /// Sends a break on the guest's serial console.
    pub async fn send_break(&self, uuid: Uuid) -> Result<(), Error> {
        let machine = self.inspect(uuid, "send a break to").await?.machine;
        Ok(patient(machine.send_break()).await?)
    }

    /// The guest's screen as a PNG.
    pub async fn screenshot(&self, call: &Call, uuid: Uuid) -> Result<Vec<u8>, Error> {
        let machine = self.screen_of(uuid, "take a screenshot of").await?;
        self.journal_call(call, Some(uuid), "TakeScreenshot", "").await;
        Ok(patient(machine.screenshot(Picture::Png)).await?)
    }
}

/// `{host, port, display?, password?}`, or `{}` when there is no endpoint. The display is the port less 5900.
fn vnc(endpoint: Option<std::net::SocketAddr>, password: Option<&str>) -> Value {
    let Some(endpoint) = endpoint else { return json!({}) };
    let mut vnc = Info::new();
    if let Some(display) = endpoint.port().checked_sub(5900) {
        vnc.insert("display".to_owned(), json!(display));
    }
    vnc.insert("port".to_owned(), json!(endpoint.port()));
    let host: IpAddr = endpoint.ip();
    vnc.insert("host".to_owned(), json!(host.to_string()));
    if let Some(password) = password {
        vnc.insert("password".to_owned(), json!(password));
    }
    Value::Object(vnc)
}
