//! Machine types, screens and devices of one boot.

use serde_json::json;
use tonic::Code;
use zoneward::proto::v1;

use super::{change, create, refused};
use crate::support::{fields, simulated::Simulated};

#[tokio::test]
async fn a_machine_type_is_for_life() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    assert_eq!(vm.spec.unwrap().machine_type.as_deref(), Some("pc-q35-7.2"));
    let old = create(&mut clients, json!({"machine_type": "pc-q35-6.0"})).await.unwrap();
    assert_eq!(old.spec.unwrap().machine_type.as_deref(), Some("pc-q35-6.0"));
    let moved = change(&mut clients, &old.uuid, json!({"machine_type": "pc-q35-7.1"})).await.unwrap();
    assert_eq!(moved["machine_type"], "pc-q35-7.1");
    // null takes the newest.
    let newest = change(&mut clients, &old.uuid, json!({"machine_type": null})).await.unwrap();
    assert_eq!(newest["machine_type"], "pc-q35-7.2");
    let status = change(&mut clients, &old.uuid, json!({"machine_type": "pc-i440fx-7.2"})).await.unwrap_err();
    assert_eq!(fields(&status), ["machine_type"]);
    for wrong in ["pc-i440fx-7.2", "q35", "pc-q35-7"] {
        assert_eq!(refused(&json!({"machine_type": wrong})).0, "machine_type", "{wrong}");
    }
}

#[tokio::test]
async fn a_boot_has_the_machines_type_and_screen() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({"machine_type": "pc-q35-6.0", "vnc_port": -1})).await.unwrap();
    clients.start(&vm.uuid).await.unwrap();
    let arguments = agent.process(&vm.uuid).arguments.clone();
    assert!(arguments.contains(&"machine=pc-q35-6.0 screen=false".to_owned()), "{arguments:?}");
    // A screen comes with a boot.
    let update = v1::UpdateVmRequest {
        uuid: vm.uuid.clone(),
        vm: Some(Box::new(v1::VmSpec { vnc_port: Some(0), ..Default::default() })),
        ..Default::default()
    };
    let answer = clients.vms.update_vm(update).await.unwrap().into_inner();
    assert_eq!(answer.next_boot, ["vnc_port"]);
    let request = v1::TakeScreenshotRequest { uuid: vm.uuid.clone() };
    let status = clients.vms.take_screenshot(request).await.unwrap_err();
    assert!(status.message().contains("no screen"), "{status:?}");
}

#[tokio::test]
async fn models_of_the_other_brand_are_refused_for_one_boot_too() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    let device = |model: &str| v1::BootDevice { path: "/x.iso".into(), model: model.into(), media: 1 };
    let options = |model: &str| v1::StartVmRequest {
        uuid: vm.uuid.clone(),
        options: Some(v1::BootOptions { devices: vec![device(model)], ..Default::default() }),
        ..Default::default()
    };
    for model in ["ide", "scsi"] {
        let status = clients.start_with(options(model)).await.unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["options.devices.0.model".into()])
        );
    }
    // It comes as far as the file, which is not there.
    let status = clients.start_with(options("ahci")).await.unwrap_err();
    assert!(status.message().contains("disk: /x.iso"), "{status:?}");
}
