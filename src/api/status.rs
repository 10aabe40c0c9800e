//! Maps errors to status codes: one exhaustive match, so that no new error is left out. `docs/api.md` has the
//! table.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    agent::Error,
    auth::ScreenLinkError,
    console::ConsoleError,
    events::WatchError,
    model::{ERROR_DOMAIN, Reason},
    spec::Violation,
};

/// The status of an error.
pub(super) fn status(error: Error) -> Status {
    let message = shortened(&error.to_string(), MAX_MESSAGE);
    let mut details = ErrorDetails::new();
    let (code, reason, metadata): (Code, Reason, Vec<(&str, String)>) = match error {
        Error::Invalid(violations) => {
            add_violations(&mut details, violations);
            (Code::InvalidArgument, Reason::InvalidMachine, vec![])
        }
        Error::VmNotFound { uuid } => {
            details.set_resource_info("zoneward.v1.Vm", uuid.to_string(), "", "");
            (Code::NotFound, Reason::VmNotFound, vec![("uuid", uuid.to_string())])
        }
        Error::VmExists { uuid } => {
            details.set_resource_info("zoneward.v1.Vm", uuid.to_string(), "", "");
            (Code::AlreadyExists, Reason::VmExists, vec![("uuid", uuid.to_string())])
        }
        Error::WrongState { uuid, state, message } => {
            let message = shortened(&message, MAX_TEXT);
            details.add_precondition_failure_violation(Reason::VmState.as_str(), uuid.to_string(), message);
            (
                Code::FailedPrecondition,
                Reason::VmState,
                vec![("uuid", uuid.to_string()), ("state", state.to_string())],
            )
        }
        Error::EtagMismatch { uuid, current } => {
            (Code::Aborted, Reason::EtagMismatch, vec![("uuid", uuid.to_string()), ("etag", current)])
        }
        Error::RequestIdReused { request_id } => {
            (Code::InvalidArgument, Reason::RequestIdReused, vec![("request_id", request_id.to_string())])
        }
        Error::AnswerLost { request_id } => {
            (Code::DataLoss, Reason::AnswerLost, vec![("request_id", request_id.to_string())])
        }
        Error::QueueFull { uuid } => {
            details.set_retry_info(Some(Duration::from_secs(1)));
            (Code::ResourceExhausted, Reason::QueueFull, vec![("uuid", uuid.to_string())])
        }
        Error::Conflict { field, owner } => {
            details.add_bad_request_violation(field.clone(), message.clone());
            (Code::AlreadyExists, Reason::Conflict, vec![("field", field), ("uuid", owner.to_string())])
        }
        Error::UsersExhausted { users } => {
            (Code::ResourceExhausted, Reason::UidRangeExhausted, vec![("users", users.to_string())])
        }
        Error::NoCapacity { resource, wanted, left, limit, .. } => {
            details.add_quota_failure_violation(resource.clone(), message.clone());
            let numbers = [("wanted", wanted), ("left", left), ("limit", limit)];
            let numbers = numbers.map(|(key, number)| (key, number.to_string()));
            let resource = [("resource", resource)].into_iter();
            (Code::ResourceExhausted, Reason::Capacity, resource.chain(numbers).collect())
        }
        Error::TooManyExports { most } | Error::TooManyUploads { most } => {
            (Code::ResourceExhausted, Reason::ImagesBusy, vec![("most", most.to_string())])
        }
        Error::NoRoom { .. } => (Code::ResourceExhausted, Reason::NoRoom, vec![]),
        Error::ReadOnly { .. } => {
            details.set_retry_info(Some(Duration::from_secs(10)));
            (Code::Unavailable, Reason::StateReadOnly, vec![])
        }
        Error::Draining => (Code::FailedPrecondition, Reason::HostDraining, vec![]),
        Error::BootFailed { uuid, step, reason } => (
            Code::FailedPrecondition,
            Reason::BootFailed,
            vec![
                ("uuid", uuid.to_string()),
                ("state", crate::spec::VmState::Stopped.to_string()),
                ("step", step),
                ("reason", reason),
            ],
        ),
        Error::Unsupported { capability, .. } => {
            (Code::Unimplemented, Reason::CapabilityMissing, vec![("capability", capability)])
        }
        Error::Hypervisor { .. } => (Code::FailedPrecondition, Reason::Hypervisor, vec![]),
        Error::FileNotFound { path, .. } => (Code::NotFound, Reason::FileNotFound, vec![("path", path)]),
        Error::FileExists { path, .. } => (Code::AlreadyExists, Reason::FileExists, vec![("path", path)]),
        Error::FileRefused { path, .. } => {
            (Code::FailedPrecondition, Reason::FileRefused, vec![("path", path)])
        }
        Error::UploadBusy { path, .. } => (Code::Aborted, Reason::UploadBusy, vec![("path", path)]),
        Error::UploadOffset { path, committed, .. } => (
            Code::OutOfRange,
            Reason::UploadOffset,
            vec![("path", path), ("committed", committed.to_string())],
        ),
        Error::UploadBroken { path, .. } => (Code::DataLoss, Reason::UploadBroken, vec![("path", path)]),
        Error::ImageNotFound { image } => {
            details.set_resource_info("zoneward.v1.Image", image.clone(), "", "");
            (Code::NotFound, Reason::ImageNotFound, vec![("image", image)])
        }
        Error::ImageExists { uuid, .. } => {
            (Code::AlreadyExists, Reason::ImageExists, vec![("image", uuid.to_string())])
        }
        Error::ImageInUse { uuid, vms, images, .. } => {
            // Whole names only, as many as a text holds.
            let all = |uuids: &[uuid::Uuid]| {
                uuids.iter().take(MAX_TEXT / 40).map(ToString::to_string).collect::<Vec<_>>().join(",")
            };
            (
                Code::FailedPrecondition,
                Reason::ImageInUse,
                vec![("image", uuid.to_string()), ("vms", all(&vms)), ("images", all(&images))],
            )
        }
        Error::ImageBroken { uuid, fault, .. } => {
            (Code::DataLoss, Reason::ImageBroken, vec![("image", uuid.to_string()), ("fault", fault)])
        }
        Error::ImageCancelled { uuid } => {
            (Code::Aborted, Reason::ImageCancelled, vec![("image", uuid.to_string())])
        }
        Error::SourceMissing { .. } => (Code::NotFound, Reason::SourceMissing, vec![]),
        Error::SourceRefused { .. } => (Code::PermissionDenied, Reason::SourceRefused, vec![]),
        Error::SourceFailed { .. } => (Code::FailedPrecondition, Reason::SourceFailed, vec![]),
        Error::ConsoleOffset { oldest, end, .. } => (
            Code::OutOfRange,
            Reason::ConsoleOffset,
            vec![("oldest", oldest.to_string()), ("end", end.to_string())],
        ),
        Error::ConsoleBusy { writer, .. } => {
            (Code::FailedPrecondition, Reason::ConsoleBusy, vec![("writer", writer)])
        }
        Error::Stopping => {
            details.set_retry_info(Some(Duration::from_secs(1)));
            (Code::Unavailable, Reason::Stopping, vec![])
        }
        Error::Internal { .. } => (Code::Internal, Reason::Internal, vec![]),
    };
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), shortened(&value, MAX_TEXT))).collect();
    details.set_error_info(reason.as_str(), ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// An error travels in headers, of which many clients accept 8 KiB by default: bytes of its message (one that
/// is not ASCII takes three), of a text in its details, and of all violations.
const MAX_MESSAGE: usize = 600;
const MAX_TEXT: usize = 300;
const MAX_VIOLATIONS: usize = 3 << 10;

/// Adds the first violations that fit, and the number of the others.
fn add_violations(details: &mut ErrorDetails, violations: Vec<Violation>) {
    let (mut room, mut left) = (MAX_VIOLATIONS, violations.len());
    for Violation { field, message, .. } in violations {
        let (field, message) = (shortened(&field, MAX_TEXT), shortened(&message, MAX_TEXT));
        let Some(rest) = room.checked_sub(field.len() + message.len()) else {
            details.add_bad_request_violation("", format!("and {left} more; ValidateVm names all of them"));
            return;
        };
        (room, left) = (rest, left - 1);
        details.add_bad_request_violation(field, message);
    }
}

fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(bytes)])
}

/// The status of a watch that can't start or go on.
pub(super) fn watch_status(error: WatchError) -> Status {
    let message = error.to_string();
    let (code, reason, metadata) = match error {
        WatchError::Foreign => (Code::InvalidArgument, Reason::CursorForeign, HashMap::new()),
        WatchError::Expired { oldest, newest } => (
            Code::OutOfRange,
            Reason::CursorExpired,
            HashMap::from([
                ("oldest".to_owned(), oldest.to_string()),
                ("newest".to_owned(), newest.to_string()),
            ]),
        ),
        WatchError::Store(source) => return status(source.into()),
    };
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, metadata),
    )
}

/// The status of a link that can't be made.
pub(super) fn link_status(error: ScreenLinkError) -> Status {
    match error {
        ScreenLinkError::TooMany => {
            let mut details =
                ErrorDetails::with_error_info(Reason::TooManyLinks.as_str(), ERROR_DOMAIN, HashMap::new());
            details.set_retry_info(Some(Duration::from_secs(1)));
            Status::with_error_details(Code::ResourceExhausted, error.to_string(), details)
        }
        ScreenLinkError::Random => status(Error::internal(error)),
    }
}

/// The status of a console that can't be read or written.
pub(super) fn console_status(error: ConsoleError) -> Status {
    status(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_what_clients_take() {
        let violations = |count: usize, text: &str| {
            let violation = |n| Violation::value(format!("nics.{n}.{text}"), text.repeat(9));
            status(Error::Invalid((0..count).map(violation).collect()))
        };
        for status in [
            violations(1000, "mac"),
            violations(3, &"é".repeat(9000)),
            status(Error::internal("é".repeat(20_000))),
        ] {
            let encoded = status.message().bytes().map(|byte| if byte.is_ascii() { 1 } else { 3 });
            let size = encoded.sum::<usize>() + status.details().len() * 4 / 3;
            assert!(size < 7 << 10, "{size}");
            assert!(status.get_error_details().error_info().is_some());
        }
        let few = violations(3, "mac").get_error_details().bad_request().unwrap().field_violations.clone();
        assert_eq!(few.len(), 3);
        let many =
            violations(1000, "mac").get_error_details().bad_request().unwrap().field_violations.clone();
        let last = many.last().unwrap();
        assert_eq!(last.description, format!("and {} more; ValidateVm names all of them", 1001 - many.len()));
    }

    #[test]
    fn violations_keep_their_paths() {
        let error = Error::Invalid(vec![Violation::value("disks.0.size", "0 is out of range")]);
        let status = status(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "Invalid value(s) for: disks.0.size");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "disks.0.size");
        assert_eq!(details.error_info().unwrap().reason, "INVALID_MACHINE");
        assert_eq!(details.error_info().unwrap().domain, "zoneward");
    }
}
