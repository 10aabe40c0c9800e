//! Anything that a guest may send on its link.
#![no_main]

use etherparse::PacketBuilder;
use libfuzzer_sys::fuzz_target;
use zoneward::internals::network::{
    Lease,
    dhcp::{Responder, SERVER_MAC, acknowledged},
};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn lease() -> Option<Lease> {
    Some(Lease {
        mac: "02:00:00:00:00:01".parse().ok()?,
        v4: "10.0.0.5/24".parse().ok(),
        v6: vec!["fd00::5/64".parse().ok()?],
        router: "10.0.0.1".parse().ok(),
        hostname: Some("web1".to_owned()),
        resolvers: vec!["10.0.0.2".parse().ok()?, "fd00::2".parse().ok()?],
        routes: Vec::new(),
        mtu: Some(1400),
        clients: Vec::new(),
    })
}

/// A payload where it is looked at, so that what is behind headers and checksums is reached too.
fn framed(payload: &[u8]) -> [Vec<u8>; 4] {
    let link = || PacketBuilder::ethernet2(GUEST, [0xff; 6]);
    let six = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];
    let mut frames = [Vec::new(), Vec::new(), Vec::new(), payload.to_vec()];
    let _ = link().ipv4([0; 4], [255; 4], 64).udp(68, 67).write(&mut frames[0], payload);
    let _ = link().ipv6(six, [0xff; 16], 1).udp(546, 547).write(&mut frames[1], payload);
    let _ = link().ipv6(six, [0xff; 16], 255).icmpv6_raw(133, 0, [0; 4]).write(&mut frames[2], payload);
    frames
}

fuzz_target!(|payload: &[u8]| {
    let Some(lease) = lease() else { return };
    let responder = Responder::new(lease.clone());
    for frame in framed(payload) {
        let _ = acknowledged(&frame, lease.mac);
        if let Some(answer) = responder.answer(&frame) {
            assert!(answer.frame.len() <= 1514);
            assert_eq!(answer.frame[6..12], SERVER_MAC);
        }
    }
});
