//! `create` and `validate`.

use std::path::Path;

use serde_json::{Map, Value, json};
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{
    Clients,
    error::CliError,
    payload::{payload, print_notes},
    persist::persist,
    print,
};
use crate::{
    client::{Reason, reason},
    proto::{
        spec_to_proto,
        v1::{self, violation},
    },
    spec::{
        Brand, Kind, Violation, filter,
        machine_json::{self, Parsed, Strictness},
        update,
    },
};

/// Reads the payload; reports everything wrong with it at once.
pub(super) fn read(file: Option<&Path>, strictness: Strictness) -> Result<Parsed, CliError> {
    let parsed = machine_json::parse_as(payload(file, "create")?, strictness);
    let violations = parsed.all_violations();
    if violations.is_empty() { Ok(parsed) } else { Err(CliError::violations(&violations)) }
}

pub(super) async fn create(clients: &mut Clients, payload: Parsed, verbose: bool) -> Result<(), CliError> {
    let Parsed { spec, notes, .. } = payload;
    let request = v1::CreateVmRequest {
        vm: Some(spec_to_proto(&spec)),
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
        ..Default::default()
    };
    let answer = persist(|| {
        let (mut vms, request) = (clients.vms.clone(), request.clone());
        async move { vms.create_vm(request).await }
    });
    let answer = answer.await.map_err(not_booted)?;
    say!("Successfully created VM {}", answer.vm.unwrap_or_default().uuid);
    print_notes(&notes, answer.notes, verbose);
    Ok(())
}

/// The VM exists although it did not boot; another request would create a second one.
fn not_booted(status: Status) -> CliError {
    let details = status.get_error_details();
    let made = reason(&status) == Some(Reason::BootFailed);
    let uuid = details.error_info().filter(|_| made).and_then(|info| info.metadata.get("uuid")).cloned();
    let error = CliError::from(status);
    match uuid {
        Some(uuid) => {
            error.with_prefix(&format!("vmadm start {uuid} tries again, vmadm delete {uuid} removes it"))
        }
        None => error,
    }
}

/// A payload to validate: violations are the result, not an error.
#[derive(Debug)]
pub(super) enum Validation {
    Create(Map<String, Value>),
    Update(&'static str, Map<String, Value>),
}

pub(super) fn read_for_validation(
    action: &str,
    brand: Option<&str>,
    file: Option<&Path>,
) -> Result<Validation, CliError> {
    match (action, brand) {
        ("create", None) => Ok(Validation::Create(payload(file, "validate")?)),
        ("update", Some(brand)) => {
            let known = Brand::NAMES.iter().find(|(name, _)| *name == brand);
            let (name, _) = known
                .ok_or_else(|| CliError::usage(format!("Invalid brand: \"{brand}\"; one of: kvm, bhyve")))?;
            Ok(Validation::Update(name, payload(file, "validate")?))
        }
        ("create", Some(_)) => Err(CliError::usage("create takes the brand from the payload")),
        ("update", None) => {
            Err(CliError::usage("update needs a brand: vmadm validate update <brand> [-f file]"))
        }
        _ => Err(CliError::usage(format!(
            "Invalid validation action: \"{action}\"; it must be create or update"
        ))),
    }
}

pub(super) async fn validate(
    clients: &mut Clients,
    validation: Validation,
    strictness: Strictness,
    verbose: bool,
) -> Result<(), CliError> {
    let mut here = Vec::new();
    let bad_brand = bad_brand(&validation);
    let (action, brand, asked) = match validation {
        Validation::Create(object) => {
            let parsed = machine_json::parse_as(object, strictness);
            here.clone_from(&parsed.notes);
            let brand = parsed.spec.brand.map(|brand| brand.as_str()).unwrap_or_default();
            let violations = parsed.all_violations();
            let vm = Some(Box::new(spec_to_proto(&parsed.spec)));
            let request = v1::ValidateVmRequest { vm, ..Default::default() };
            ("create", brand, if violations.is_empty() { Ok(request) } else { Err(violations) })
        }
        Validation::Update(brand, object) => {
            let known = Brand::NAMES.iter().find(|(name, _)| *name == brand).map(|(_, brand)| *brand);
            let read = update::read_as(object, known, strictness);
            let asked = match read.map(|patch| (patch.unchangeable(), patch)) {
                Err(violations) => Err(violations),
                Ok((unchangeable, _)) if !unchangeable.is_empty() => Err(unchangeable),
                Ok((_, patch)) => {
                    here.clone_from(&patch.notes);
                    let update = Some(Box::new(super::update::request(&patch)?));
                    Ok(v1::ValidateVmRequest { update, brand: brand.to_owned(), ..Default::default() })
                }
            };
            ("update", brand, asked)
        }
    };
    let (violations, notes) = match asked {
        Err(violations) => (violations, Vec::new()),
        Ok(request) => {
            let answer = clients.vms.validate_vm(request).await?.into_inner();
            (answer.violations.into_iter().map(violation).collect(), answer.notes)
        }
    };
    if violations.is_empty() {
        say!("VALID '{action}' payload for {brand} brand VMs.");
        print_notes(&here, notes, verbose);
        return Ok(());
    }
    print(&serde_json::to_string_pretty(&report(&violations, bad_brand.as_deref())).unwrap_or_default())?;
    for violation in &violations {
        say!("{violation}");
    }
    Err(CliError::quiet())
}

/// Returns the brand of a payload, if it is unknown.
fn bad_brand(validation: &Validation) -> Option<String> {
    let Validation::Create(object) = validation else { return None };
    let brand = object.get("brand").filter(|brand| !brand.is_null())?;
    let is_known = Brand::NAMES.iter().any(|(name, _)| brand == name);
    (!is_known).then(|| filter::text(brand))
}

/// vmadm's report: `{bad_values, bad_properties, missing_properties}`, and `bad_brand` of a brand that does not exist.
fn report(violations: &[Violation], brand: Option<&str>) -> Value {
    let names = |kind| {
        let fields: Vec<&str> =
            violations.iter().filter(|v| v.kind == kind).map(|v| v.field.as_str()).collect();
        json!(fields)
    };
    let mut report = Map::new();
    report.insert("bad_values".to_owned(), names(Kind::BadValue));
    report.insert("bad_properties".to_owned(), names(Kind::BadProperty));
    report.insert("missing_properties".to_owned(), names(Kind::MissingProperty));
    if let Some(brand) = brand {
        report.insert("bad_brand".to_owned(), json!(brand));
    }
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
