//! `update`, and other changes of a machine: `kill`, `sysrq`, `pause`, `resume`, `change-media`.

use std::path::Path;

use uuid::Uuid;

use super::{
    Clients,
    error::CliError,
    machine,
    payload::{payload, print_notes, talks},
    persist::persist,
};
use crate::{
    proto::{json_to_update, v1},
    spec::{
        machine_json::Strictness,
        update::{self, Patch},
    },
    text::escaped,
};

/// Reads changes: `key=value` words, or a JSON payload.
pub(super) fn read(words: &[String], file: Option<&Path>, strictness: Strictness) -> Result<Patch, CliError> {
    let object = if words.is_empty() {
        payload(file, "update")?
    } else if file.is_some() {
        return Err(CliError::usage("give key=value words or -f, not both"));
    } else {
        update::from_words(words).map_err(CliError::usage)?
    };
    update::read_as(object, None, strictness).map_err(|violations| CliError::violations(&violations))
}

pub(super) fn request(patch: &Patch) -> Result<v1::UpdateVmRequest, CliError> {
    json_to_update(patch.payload().clone()).map_err(CliError::failed)
}

pub(super) async fn update(
    clients: &mut Clients,
    uuid: &str,
    patch: &Patch,
    replace_lists: bool,
    verbose: bool,
) -> Result<(), CliError> {
    if patch.says_what_is_known() {
        let vm = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?.into_inner().vm;
        let untrue = patch.untrue(&machine::machine(&vm.unwrap_or_default()));
        if !untrue.is_empty() {
            return Err(CliError::violations(&untrue));
        }
    }
    let request = v1::UpdateVmRequest {
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        replace_lists,
        ..request(patch)?
    };
    let answer = persist(|| {
        let (mut vms, request) = (clients.vms.clone(), request.clone());
        async move { vms.update_vm(request).await }
    });
    let answer = answer.await?;
    say!("Successfully updated VM {uuid}");
    if !talks(verbose) {
        return Ok(());
    }
    for change in &answer.changes {
        let top = change.path.split('.').next().unwrap_or_default();
        let later = answer.next_boot.iter().any(|name| name == top);
        let (old, new) = (shown(&change.old_value), shown(&change.new_value));
        let when = if later { " (at the next boot)" } else { "" };
        say!("    {}", escaped(&format!("{}: {old} -> {new}{when}", change.path)));
    }
    print_notes(&patch.notes, answer.notes, verbose);
    Ok(())
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "-" } else { value }
}

pub(super) async fn kill(clients: &mut Clients, uuid: &str, signal: Option<&str>) -> Result<(), CliError> {
    let request = v1::KillVmRequest {
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        signal: signal.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let answer = clients.vms.kill_vm(request).await.map_err(CliError::of_one_field)?.into_inner();
    let signal = answer.signal;
    say!("Sent signal \"{signal}\" to init process for VM {uuid}");
    Ok(())
}

/// vmadm's types of `sysrq`.
pub(super) fn sysrq_type(name: &str) -> Result<v1::send_sysrq_request::Type, CliError> {
    match name {
        "nmi" => Ok(v1::send_sysrq_request::Type::Nmi),
        "screenshot" => Ok(v1::send_sysrq_request::Type::Screenshot),
        _ => Err(CliError::usage(format!("Invalid sysrq type: {name}; one of: nmi, screenshot"))),
    }
}

pub(super) async fn sysrq(
    clients: &mut Clients,
    uuid: &str,
    kind: v1::send_sysrq_request::Type,
) -> Result<(), CliError> {
    let request = v1::SendSysrqRequest {
        etag: String::new(),
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        r#type: kind.into(),
    };
    clients.vms.send_sysrq(request).await?;
    if kind == v1::send_sysrq_request::Type::Nmi {
        say!("Sent NMI to VM {uuid}");
    } else {
        say!("Sent screenshot sysrq to VM {uuid}");
    }
    Ok(())
}

pub(super) async fn pause(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let request_id = Uuid::new_v4().to_string();
    clients
        .vms
        .pause_vm(v1::PauseVmRequest { uuid: uuid.to_owned(), request_id, etag: String::new() })
        .await?;
    say!("Successfully paused VM {uuid}");
    Ok(())
}

pub(super) async fn resume(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let request_id = Uuid::new_v4().to_string();
    let request = v1::ResumeVmRequest { uuid: uuid.to_owned(), request_id, etag: String::new() };
    clients.vms.resume_vm(request).await?;
    say!("Successfully resumed VM {uuid}");
    Ok(())
}

pub(super) async fn change_media(
    clients: &mut Clients,
    uuid: &str,
    path: Option<&str>,
    drive: Option<&str>,
) -> Result<(), CliError> {
    let request = v1::ChangeMediaRequest {
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        drive: drive.unwrap_or_default().to_owned(),
        path: path.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    clients.vms.change_media(request).await?;
    match path {
        Some(path) => say!("Put {path} into the CD drive of VM {uuid}"),
        None => say!("Emptied the CD drive of VM {uuid}"),
    }
    Ok(())
}
