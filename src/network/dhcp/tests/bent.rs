//! Frames that lie.

use super::*;

/// Options that are shorter than their kind, cut, endless, or lie about their length.
#[test]
fn options_that_lie_are_passed_over() {
    let responder = Responder::new(lease());
    let six = |options: &[u8]| {
        let payload = [&[1, 7, 7, 7][..], options].concat();
        let from = lease().mac.link_local().octets();
        let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv6(from, [0xff; 16], 1).udp(546, 547);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        responder.answer(&frame)
    };
    let client = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
    for code in [3_u8, 4, 5, 8, 11, 13, 15, 16, 17, 24, 25, 26, 56, 61] {
        for length in 0..4 {
            let short = [&[0, code, 0, length][..], &vec![0xb4; length.into()]].concat();
            assert!(six(&[&short[..], &client].concat()).is_some(), "{code} with {length} bytes");
            assert_eq!(six(&[&[0, code, 0xff, 0xff][..], &client].concat()), None, "{code} cut");
        }
    }
    assert_eq!(six(&[0, 1, 0, 0xb4]), None);
    assert_eq!(six(&[0, 1, 0, 131].into_iter().chain([0; 131]).collect::<Vec<_>>()), None);

    let four = |options: &[u8]| {
        let mut payload = request(None).to_vec().unwrap();
        payload.truncate(236);
        payload.extend([0x63, 0x82, 0x53, 0x63]);
        payload.extend(options);
        let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        responder.answer(&frame).map(|answer| four(&answer).opts().msg_type().unwrap())
    };
    for code in 1..=254_u8 {
        for length in (0..4).filter(|_| ![53, 57, 61].contains(&code)) {
            let short = [&[code, length][..], &vec![33; length.into()], &[53, 1, 1, 255]].concat();
            assert_eq!(four(&short), Some(four::MessageType::Offer), "{code} with {length} bytes");
        }
    }
    assert_eq!(four(&[53, 1, 1]), Some(four::MessageType::Offer), "without an end");
    assert_eq!(four(&[0, 0, 0, 53, 1, 3]), Some(four::MessageType::Ack), "after what is skipped");
    // What can't be read to its kind has none, which is BOOTP.
    for bad in [&[][..], &[53], &[53, 1], &[53, 0], &[255, 53, 1, 1], &[12, 200, 53, 1, 1]] {
        assert_eq!(four(bad), Some(four::MessageType::Ack), "{bad:?}");
    }
    assert_eq!(four(&[57, 1, 9, 53, 1, 1, 255]), Some(four::MessageType::Offer));
}

/// Good frames to bend.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    vec![
        framed(&request(Some(four::MessageType::Discover))),
        framed(&request(None)),
        framed6(&request6(six::MessageType::Solicit)),
    ]
}

proptest! {
    #[test]
    fn garbage_is_never_a_panic(frame in proptest::collection::vec(any::<u8>(), 0..1600)) {
        let _ = Responder::new(lease()).answer(&frame);
        let _ = acknowledged(&frame, lease().mac);
        let _ = relayed(&frame, lease().mac, &[]);
    }

    #[test]
    fn a_bent_frame_is_never_a_panic(which in 0..3usize, at in 0..400usize, value: u8, cut in 0..400usize) {
        let mut frame = frames()[which].clone();
        let at = at % frame.len();
        frame[at] = value;
        let _ = Responder::new(lease()).answer(&frame);
        frame.truncate(cut);
        let _ = Responder::new(lease()).answer(&frame);
        let _ = relayed(&frame, lease().mac, &[]);
    }
}
