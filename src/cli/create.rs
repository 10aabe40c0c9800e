//! `create` and `validate`.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Clients, error::CliError, print};
use crate::{
    proto::{
        spec_to_proto,
        v1::{self, violation},
    },
    spec::{
        Kind, MAX_PAYLOAD, Violation, VmSpec,
        machine_json::{self, Parsed},
        validate,
    },
};

/// Reads the payload; everything that is wrong with it by itself is told at once.
pub(super) fn read(file: Option<&Path>, command: &str) -> Result<VmSpec, CliError> {
    let parsed = parse(file, command)?;
    if parsed.violations.is_empty() {
        return Ok(parsed.spec);
    }
    Err(CliError::violations(&all_violations(parsed)))
}

fn parse(file: Option<&Path>, command: &str) -> Result<Parsed, CliError> {
    let text = match file {
        None => from_stdin(command)?,
        Some(path) if path == Path::new("-") => from_stdin(command)?,
        Some(path) => match File::open(path) {
            Ok(file) => bounded(file, &path.display().to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CliError::failed(format!("File: {} does not exist.", path.display())));
            }
            Err(error) => return Err(CliError::failed(format!("{}: {error}", path.display()))),
        },
    };
    machine_json::parse(&text).map_err(|error| CliError::failed(error.to_string()))
}

fn from_stdin(command: &str) -> Result<Vec<u8>, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::usage(format!("Will not {command} from stdin when stdin is a tty.")));
    }
    bounded(stdin.lock(), "standard input")
}

/// One byte over the limit is enough to know.
fn bounded(from: impl Read, name: &str) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    from.take(MAX_PAYLOAD as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| CliError::failed(format!("{name}: {error}")))?;
    Ok(text)
}

/// What could not be read, and the rules that the rest breaks; a field is named once.
fn all_violations(parsed: Parsed) -> Vec<Violation> {
    let mut all = parsed.violations;
    for violation in validate::check(&parsed.spec) {
        if !all.iter().any(|known| known.field == violation.field) {
            all.push(violation);
        }
    }
    all
}

pub(super) async fn create(clients: &mut Clients, spec: VmSpec) -> Result<(), CliError> {
    let request = v1::CreateVmRequest {
        vm: Some(spec_to_proto(&spec)),
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
    };
    let vm = clients.vms.create_vm(request).await?.into_inner().vm.unwrap_or_default();
    anstream::eprintln!("Successfully created VM {}", vm.uuid);
    Ok(())
}

/// A payload to be validated: what is wrong is the answer, not an error.
pub(super) fn read_for_validation(action: &str, file: Option<&Path>) -> Result<Parsed, CliError> {
    if action != "create" {
        return Err(CliError::usage(format!("Invalid validation action: \"{action}\"; it must be create")));
    }
    parse(file, "validate")
}

pub(super) async fn validate(clients: &mut Clients, parsed: Parsed) -> Result<(), CliError> {
    let brand = parsed.spec.brand;
    let violations = if parsed.violations.is_empty() {
        let request = v1::ValidateVmRequest { vm: Some(spec_to_proto(&parsed.spec)) };
        let answer = clients.vms.validate_vm(request).await?.into_inner();
        answer.violations.into_iter().map(violation).collect()
    } else {
        all_violations(parsed)
    };
    if violations.is_empty() {
        let brand = brand.map(|brand| brand.as_str()).unwrap_or_default();
        anstream::eprintln!("VALID 'create' payload for {brand} brand VMs.");
        return Ok(());
    }
    print(&serde_json::to_string_pretty(&report(&violations)).unwrap_or_default())?;
    for violation in &violations {
        anstream::eprintln!("{violation}");
    }
    Err(CliError::quiet())
}

/// vmadm's report: `{bad_values, bad_properties, missing_properties}`.
fn report(violations: &[Violation]) -> Value {
    let names = |kind| {
        let fields: Vec<&str> =
            violations.iter().filter(|v| v.kind == kind).map(|v| v.field.as_str()).collect();
        json!(fields)
    };
    let mut report = Map::new();
    report.insert("bad_values".to_owned(), names(Kind::BadValue));
    report.insert("bad_properties".to_owned(), names(Kind::BadProperty));
    report.insert("missing_properties".to_owned(), names(Kind::MissingProperty));
    Value::Object(report)
}

fn violation(violation: v1::Violation) -> Violation {
    let kind = match violation.kind() {
        violation::Kind::BadProperty => Kind::BadProperty,
        violation::Kind::MissingProperty => Kind::MissingProperty,
        violation::Kind::BadValue | violation::Kind::Unspecified => Kind::BadValue,
    };
    Violation { field: violation.field, message: violation.description, kind }
}
