//! Machines and updates as requests carry them.

use prost::Message as _;
use prost_types::Struct;
use serde_json::{Map, Value};
use tonic::Status;

use super::{
    request::{invalid, uuid},
    status::status,
    vms::Vms,
};
use crate::{
    agent::{Call, Error},
    proto::{spec_from_proto, struct_to_json, update_to_json, v1},
    spec::{
        Brand, MAX_PAYLOAD, Note, Violation,
        machine_json::{self, Parsed},
        update,
    },
};

/// The request has no machine.
pub(super) fn no_machine() -> Status {
    status(Error::Invalid(vec![Violation::missing("vm", "required: the machine")]))
}

/// Returns the machine of a request, in either of its forms.
pub(super) fn machine(vm: Option<&v1::VmSpec>, json: Option<Struct>) -> Result<Parsed, Status> {
    match (vm, json) {
        (Some(vm), None) => Ok(spec_from_proto(vm)),
        (None, Some(json)) => {
            let size = json.encoded_len();
            if size > MAX_PAYLOAD {
                return Err(invalid("machine_json", format!("{size} bytes is over the limit of 1 MiB")));
            }
            Ok(machine_json::parse_object(struct_to_json(json)))
        }
        (Some(_), Some(_)) => Err(invalid("machine_json", "give vm or machine_json, not both")),
        (None, None) => Err(no_machine()),
    }
}

/// Returns the changes of a request.
pub(super) fn payload(request: &v1::UpdateVmRequest) -> Result<Map<String, Value>, Vec<Violation>> {
    let size = request.encoded_len();
    if size > MAX_PAYLOAD {
        return Err(vec![Violation::value("vm", format!("{size} bytes is over the limit of 1 MiB"))]);
    }
    update_to_json(request)
}

impl Vms {
    /// Validates an update: of that VM, or else of any VM of that brand.
    pub(super) async fn validate_update(
        &self,
        actor: String,
        request: v1::UpdateVmRequest,
        brand: &str,
    ) -> Result<(Vec<Violation>, Vec<Note>), Status> {
        let payload = match payload(&request) {
            Ok(payload) => payload,
            Err(violations) => return Ok((violations, Vec::new())),
        };
        if request.uuid.is_empty() {
            let known = Brand::NAMES.iter().find(|(name, _)| *name == brand);
            let (_, brand) = known.ok_or_else(|| invalid("brand", "required; one of: kvm, bhyve"))?;
            return Ok(match update::read(payload, Some(*brand)) {
                Ok(patch) => (patch.unchangeable(), patch.notes),
                Err(violations) => (violations, Vec::new()),
            });
        }
        let call = Call::by(actor);
        let looked = self
            .agent
            .update_vm(call, uuid(&request.uuid)?, request.etag, (payload, request.replace_lists), true)
            .await;
        match looked {
            Ok(updated) => Ok((Vec::new(), updated.notes)),
            Err(Error::Invalid(violations)) => Ok((violations, Vec::new())),
            Err(error) => Err(status(error)),
        }
    }
}
