//! Boots: their options, and the phases that they reach.

use super::{v1, value::offset};
use crate::{
    model::{BootPhase, Phase},
    spec::{BootDevice, BootOptions, BootOrder, DiskModel, Media, Violation},
};

/// Reads boot options from the wire.
pub(crate) fn boot_options(options: Option<v1::BootOptions>) -> Result<BootOptions, Vec<Violation>> {
    let options = options.unwrap_or_default();
    let mut found = Vec::new();
    let out = &mut found;
    let parsed = BootOptions {
        order: boot_order(out, "options.order", &options.order),
        once: boot_order(out, "options.once", &options.once),
        devices: options
            .devices
            .into_iter()
            .enumerate()
            .filter_map(|(i, device)| boot_device(out, &format!("options.devices.{i}"), device))
            .collect(),
    };
    if found.is_empty() { Ok(parsed) } else { Err(found) }
}

fn boot_order(out: &mut Vec<Violation>, field: &str, letters: &str) -> Option<BootOrder> {
    if letters.is_empty() {
        return None;
    }
    letters.parse().map_err(|why: String| out.push(Violation::value(field, why))).ok()
}

fn boot_device(out: &mut Vec<Violation>, at: &str, device: v1::BootDevice) -> Option<BootDevice> {
    let model =
        DiskModel::parse(&device.model).map_err(|why| out.push(Violation::value(format!("{at}.model"), why)));
    let media = match device.media() {
        v1::boot_device::Media::Cdrom => Some(Media::Cdrom),
        v1::boot_device::Media::Disk => Some(Media::Disk),
        v1::boot_device::Media::Unspecified => {
            out.push(Violation::missing(format!("{at}.media"), "required: MEDIA_CDROM or MEDIA_DISK"));
            None
        }
    };
    Some(BootDevice { path: device.path, model: model.ok()?, media: media? })
}

/// Converts them back.
pub(crate) fn boot_options_to_proto(options: &BootOptions) -> v1::BootOptions {
    let order = |order: &Option<BootOrder>| order.as_ref().map(ToString::to_string).unwrap_or_default();
    let device = |device: &BootDevice| v1::BootDevice {
        path: device.path.clone(),
        model: device.model.as_str().to_owned(),
        media: match device.media {
            Media::Cdrom => v1::boot_device::Media::Cdrom,
            Media::Disk => v1::boot_device::Media::Disk,
        }
        .into(),
    };
    v1::BootOptions {
        order: order(&options.order),
        once: order(&options.once),
        devices: options.devices.iter().map(device).collect(),
    }
}

/// A phase that a boot reached.
pub(crate) fn phase(reached: &BootPhase) -> v1::BootPhase {
    use v1::boot_phase::Phase as Wire;
    let mut phase = v1::BootPhase { elapsed_us: offset(reached.elapsed_us), ..Default::default() };
    let kind = match &reached.phase {
        Phase::ZoneReady => Wire::ZoneReady,
        Phase::DisksReady => Wire::DisksReady,
        Phase::NicsReady => Wire::NicsReady,
        Phase::HypervisorSpawned => Wire::HypervisorSpawned,
        Phase::ControlReady => Wire::ControlReady,
        Phase::Running => Wire::Running,
        Phase::FirstConsoleByte => Wire::FirstConsoleByte,
        Phase::GuestMetadata => Wire::GuestMetadata,
        Phase::GuestAddress { mac, address } => {
            (phase.mac, phase.address) = (mac.to_string(), address.to_string());
            Wire::GuestAddress
        }
        Phase::Failed { step, reason } => {
            (phase.step, phase.reason) = (step.clone(), reason.clone());
            Wire::Failed
        }
    };
    phase.phase = kind.into();
    phase
}
