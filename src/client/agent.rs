//! The services of one agent.

use tonic::transport::Channel;

use super::connect::{ConnectError, Endpoint};
use crate::proto::v1::{
    console_service_client::ConsoleServiceClient, event_service_client::EventServiceClient,
    host_service_client::HostServiceClient, image_service_client::ImageServiceClient,
    vm_service_client::VmServiceClient,
};

/// Largest answer: a page of a thousand VMs, or a picture.
const MAX_ANSWER: usize = 64 << 20;

/// The services of one agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent {
    /// VMs and their files.
    pub vms: VmServiceClient<Channel>,
    /// The journal; [`super::EventWatcher`] keeps up with it.
    pub events: EventServiceClient<Channel>,
    /// Consoles and screens.
    pub consoles: ConsoleServiceClient<Channel>,
    /// The host.
    pub host: HostServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

impl Agent {
    /// Connects to an agent.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ConnectError> {
        Ok(Self::new(endpoint.connect().await?))
    }

    /// Uses an existing channel.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self {
            vms: VmServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            events: EventServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            consoles: ConsoleServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER),
            host: HostServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER),
        }
    }
}
