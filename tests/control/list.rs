//! Lists and the host.

use zoneward::proto::v1;

use super::support::{fields, machine, simulated::Simulated};

#[tokio::test]
async fn vms_are_paged_in_order() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(clients.create(machine()).await);
    }
    made.sort();
    let mut request = v1::ListVmsRequest { page_size: 2, page_token: String::new() };
    let mut seen = Vec::new();
    loop {
        let page = clients.vms.list_vms(request.clone()).await.unwrap().into_inner();
        assert!(page.vms.len() <= 2);
        seen.extend(page.vms.into_iter().map(|vm| vm.uuid));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, made);
    for bad in [
        v1::ListVmsRequest { page_size: -1, page_token: String::new() },
        v1::ListVmsRequest { page_size: 0, page_token: "x".into() },
    ] {
        let status = clients.vms.list_vms(bad).await.unwrap_err();
        assert_eq!(fields(&status).len(), 1);
    }
}

#[tokio::test]
async fn the_host_says_what_it_is() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    assert_eq!(host.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(host.zones_dir, agent.config.zones_dir.display().to_string());
    assert!(
        host.cpus >= 1 && host.memory > 0 && host.kernel.starts_with("Linux ") && !host.hostname.is_empty()
    );
    let kvm = &host.hypervisors[0];
    assert_eq!((kvm.brand.as_str(), kvm.accelerator.as_str()), ("kvm", "tcg"));
    assert!(!kvm.version.is_empty() && !kvm.accelerator_reason.is_empty());
}
