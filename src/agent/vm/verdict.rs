//! The verdict on a machine that is not created: what `create` would say of it now.

use uuid::Uuid;

use crate::{
    agent::{
        context::VmContext,
        error::Error,
        vm::{create, validation},
    },
    spec::{Note, Violation, VmSpec},
};

/// Everything that creation would refuse: the rules of machines, and the host as it is now, with its brands, images,
/// addresses, capacity and UUIDs.
pub(in crate::agent) async fn judge(context: &VmContext, spec: &VmSpec) -> Result<Vec<Note>, Vec<Violation>> {
    let notes = validation::judge(context, spec).await?;
    let uuid = spec.uuid.unwrap_or_else(Uuid::new_v4);
    match create::would_be(context, uuid, spec.clone()) {
        Ok(_) => Ok(notes),
        Err(error) => Err(vec![Violation::value(field_of(&error), error.to_string())]),
    }
}

/// The property that a refusal is about.
fn field_of(error: &Error) -> String {
    match error {
        Error::Conflict { field, .. } => field.clone(),
        Error::VmExists { .. } | Error::UsersExhausted { .. } => "uuid".to_owned(),
        Error::NoCapacity { resource, .. } if resource == "disk" => "disks".to_owned(),
        Error::NoCapacity { resource, .. } => resource.clone(),
        Error::Unsupported { .. } => "brand".to_owned(),
        _ => "vm".to_owned(),
    }
}
