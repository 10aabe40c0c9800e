//! The agent's socket at a guest's link: receives requests, and answers them.

use std::{io, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    network::{
        Assigned,
        dhcp::{Responder, acknowledged, relayed},
    },
    spec::Mac,
    sys::{PacketSocket, Way},
};

/// Frames processed per second; a guest that sends more waits, and loses them.
const FRAMES: u32 = 200;
/// The longest frame that is answered.
const LONGEST: usize = 2048;

/// One interface's.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) mac: Mac,
    pub(super) socket: PacketSocket,
    /// Answers requests; without one a server of the network does.
    pub(super) responder: Option<Responder>,
    /// Lets requests of listed clients through to the network.
    pub(super) relay: Option<Relay>,
}

/// Where checked requests are forwarded.
#[derive(Debug)]
pub(super) struct Relay {
    /// At the bridge.
    pub(super) bridge: PacketSocket,
    /// Whose.
    pub(super) clients: Vec<Vec<u8>>,
}

impl Port {
    /// Serves until the link is gone.
    pub(super) async fn serve(self, told: mpsc::Sender<Assigned>) {
        let mac = self.mac;
        if let Err(error) = self.attend(told).await {
            // The link goes with its hypervisor.
            tracing::debug!(%mac, %error, "the link is gone");
        }
    }

    async fn attend(self, told: mpsc::Sender<Assigned>) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        let (mut second, mut sent, mut heard) = (Instant::now(), 0, 0);
        loop {
            let (length, way) = self.socket.receive(&mut buffer).await?;
            if second.elapsed() >= Duration::from_secs(1) {
                (second, sent, heard) = (Instant::now(), 0, 0);
            }
            // Frames from others do not count against the guest.
            let count = if way == Way::In { &mut sent } else { &mut heard };
            *count += 1;
            if *count > FRAMES {
                if way == Way::In {
                    sleep_until(second + Duration::from_secs(1)).await;
                }
                continue;
            }
            for address in self.handle(buffer.get(..length).unwrap_or_default(), way) {
                let _ = told.send(address).await;
            }
        }
    }

    /// Returns the addresses that this frame assigns.
    fn handle(&self, frame: &[u8], way: Way) -> Vec<Assigned> {
        let assigned = match way {
            Way::Out => acknowledged(frame, self.mac).into_iter().collect(),
            Way::In => self.hear(frame),
        };
        assigned.into_iter().map(|address| Assigned { mac: self.mac, address }).collect()
    }

    fn hear(&self, frame: &[u8]) -> Vec<std::net::IpAddr> {
        if let Some(answer) = self.responder.as_ref().and_then(|responder| responder.answer(frame)) {
            // A guest that does not drain its queue gets no reply.
            return self.socket.send(&answer.frame).map(|()| answer.assigned).unwrap_or_default();
        }
        if let Some(relay) = &self.relay
            && let Some(request) = relayed(frame, self.mac, &relay.clients)
        {
            let _ = relay.bridge.send(&request);
        }
        Vec::new()
    }
}
