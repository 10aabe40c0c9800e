//! Checks a machine before its creation: on its own, and for this host.

use uuid::Uuid;

use crate::{
    agent::{
        context::VmContext,
        guest::links,
        vm::{completion, images},
    },
    spec::{Note, Violation, VmSpec, defaults, machine_json::Parsed, validate},
};

/// Returns the machine of a payload, unless the payload itself is invalid.
pub(in crate::agent) fn read<'p>(
    context: &VmContext,
    parsed: &'p Parsed,
) -> Result<&'p VmSpec, Vec<Violation>> {
    let mut found = parsed.all_violations();
    if found.is_empty() {
        return Ok(&parsed.spec);
    }
    found.extend(links::violations(context, &parsed.spec));
    found.extend(images::violations(context, &parsed.spec));
    Err(found)
}

/// Returns all violations of a machine and of its completed form. On success returns notes on its
/// adjustments.
pub(in crate::agent) async fn judge(context: &VmContext, spec: &VmSpec) -> Result<Vec<Note>, Vec<Violation>> {
    let mut found = validate::check(spec);
    found.extend(links::violations(context, spec));
    found.extend(images::violations(context, spec));
    if !found.is_empty() {
        return Err(found);
    }
    let mut whole = spec.clone();
    completion::complete(context, spec.uuid.unwrap_or_else(Uuid::new_v4), &mut whole);
    let found = violations_of_whole(context, &whole).await;
    if found.is_empty() { Ok(defaults::adjusted(spec, &whole)) } else { Err(found) }
}

/// Returns the violations of a new, complete machine.
async fn violations_of_whole(context: &VmContext, spec: &VmSpec) -> Vec<Violation> {
    let mut found = validate::check_whole(spec);
    found.extend(validate::outgrown(spec, None));
    found.extend(context.hypervisor_of(spec).faults(spec).await);
    found
}
