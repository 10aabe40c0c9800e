//! Every refusal has a reason.

use zoneward::proto::v1;

use super::support::{reason, simulated::Simulated};

/// What the transport itself refuses has a reason, as everything else has.
#[tokio::test]
async fn refusals_of_the_transport_have_reasons() {
    use tonic_prost::ProstCodec;
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let ask = async |path: &'static str, message: v1::GetVmRequest, gzip: bool| {
        let mut grpc = tonic::client::Grpc::new(clients.channel.clone()).max_encoding_message_size(64 << 20);
        grpc.ready().await.unwrap();
        let codec: ProstCodec<v1::GetVmRequest, v1::GetVmResponse> = ProstCodec::default();
        let mut request = tonic::Request::new(message);
        if gzip {
            request.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
        }
        let path = http::uri::PathAndQuery::from_static(path);
        grpc.unary(request, path, codec).await.unwrap_err()
    };
    let named = |uuid: String| v1::GetVmRequest { uuid };
    for (path, message, gzip, wanted) in [
        ("/zoneward.v1.VmService/Nope", named("x".into()), false, "UNKNOWN_RPC"),
        ("/zoneward.v2.VmService/GetVm", named("x".into()), false, "UNKNOWN_RPC"),
        ("/zoneward.v1.VmService/GetVm", named("x".into()), true, "UNKNOWN_RPC"),
        ("/zoneward.v1.VmService/GetVm", named("x".repeat(5 << 20)), false, "MESSAGE_TOO_LARGE"),
        // Its first field is a message there.
        ("/zoneward.v1.VmService/CreateVm", named("\u{7f}".repeat(99)), false, "MALFORMED_REQUEST"),
    ] {
        let status = ask(path, message, gzip).await;
        assert_eq!(reason(&status), wanted, "{path}: {status:?}");
    }
}
