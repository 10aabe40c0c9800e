//! What passes between a guest and a server of the network.

use super::*;

#[test]
fn an_acknowledgement_of_another_server_is_read() {
    let mac = lease().mac;
    let ack = Responder::new(lease()).answer(&framed(&request(Some(four::MessageType::Request)))).unwrap();
    assert_eq!(acknowledged(&ack.frame, mac), Some("10.0.0.5".parse().unwrap()));
    assert_eq!(acknowledged(&ack.frame, "02:00:00:00:00:02".parse().unwrap()), None);
    let offer = Responder::new(lease()).answer(&framed(&request(Some(four::MessageType::Discover)))).unwrap();
    assert_eq!(acknowledged(&offer.frame, mac), None);
    assert_eq!(acknowledged(&framed(&request(Some(four::MessageType::Request))), mac), None);
}

#[test]
fn what_is_sent_on_is_as_a_client_says_it() {
    let client = vec![1, 2, 0, 0, 0, 0, 1];
    let mut message = request(Some(four::MessageType::Request));
    message.opts_mut().insert(four::DhcpOption::ClientIdentifier(client.clone()));
    let payload = message.to_vec().unwrap();
    // From another's addresses, with the checksum that a virtio interface leaves to others.
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]).ipv4(
        [10, 0, 0, 9],
        [10, 0, 0, 8],
        64,
    );
    let mut frame = Vec::new();
    builder.udp(4000, 67).write(&mut frame, &payload).unwrap();
    frame[40] ^= 0xff;
    let (mac, listed) = (lease().mac, vec![client]);
    let sent = relayed(&frame, mac, &listed).unwrap();
    let mut expected = Vec::new();
    let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [255; 4], 64);
    builder.udp(68, 67).write(&mut expected, &payload).unwrap();
    assert_eq!(sent, expected);
    assert_eq!(relayed(&frame, mac, &[vec![1]]), None);
    assert_eq!(relayed(&frame, "02:00:00:00:00:02".parse().unwrap(), &listed), None);
    let mut relay = message.clone();
    relay.set_giaddr([10, 0, 0, 9]);
    assert_eq!(relayed(&framed(&relay), mac, &listed), None);
    assert_eq!(relayed(&framed(&request(Some(four::MessageType::Request))), mac, &listed), None);
}
