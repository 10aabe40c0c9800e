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
    let mut request = v1::ListVmsRequest { page_size: 2, ..Default::default() };
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
        v1::ListVmsRequest { page_size: -1, ..Default::default() },
        v1::ListVmsRequest { page_token: "x".into(), ..Default::default() },
        v1::ListVmsRequest { filters: vec!["foo=1".into()], ..Default::default() },
        v1::ListVmsRequest { filters: vec!["ram=1".into(); 101], ..Default::default() },
    ] {
        let status = clients.vms.list_vms(bad).await.unwrap_err();
        assert_eq!(fields(&status).len(), 1);
    }
}

/// Filters are the agent's work: pages are full of what matches.
#[tokio::test]
async fn filters_and_pages_go_together() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for index in 0..9 {
        let alias = Some(format!("{}-{index}", if index % 3 == 0 { "Web" } else { "db" }));
        clients.create(v1::VmSpec { alias, ram: Some(100 + index % 2), ..machine() }).await;
    }
    for (filters, expected) in [
        (vec!["alias=~^web-"], 3),
        (vec!["alias=~^web-", "ram=100"], 2),
        (vec!["ram=101"], 4),
        (vec!["state=stopped"], 9),
        (vec!["state=running"], 0),
        (vec!["type=KVM", "alias=db-1"], 1),
    ] {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let mut request = v1::ListVmsRequest { page_size: 2, filters: filters.clone(), ..Default::default() };
        let mut found = 0;
        loop {
            let page = clients.vms.list_vms(request.clone()).await.unwrap().into_inner();
            found += page.vms.len();
            assert!(page.vms.len() == 2 || page.next_page_token.is_empty(), "a page is full or the last");
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(found, expected, "{filters:?}");
    }
}

/// A client takes 4 MiB in one message, whatever the machines hold.
#[tokio::test]
async fn a_page_ends_before_it_is_too_large() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let text = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(900_000))) };
    let metadata = prost_types::Struct { fields: [("big".to_owned(), text)].into() };
    for _ in 0..8 {
        clients.create(v1::VmSpec { customer_metadata: Some(metadata.clone()), ..machine() }).await;
    }
    let (mut request, mut seen, mut pages) = (v1::ListVmsRequest::default(), 0, 0);
    loop {
        let page = clients.vms.list_vms(request.clone()).await.unwrap().into_inner();
        (seen, pages) = (seen + page.vms.len(), pages + 1);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((seen, pages), (8, 3));
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
