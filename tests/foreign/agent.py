"""An agent as Python's grpcio knows it by reflection alone."""

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def dict_of(value):
    return json_format.MessageToDict(value, preserving_proto_field_name=True)


class Agent:
    def __init__(self, address, certs):
        def read(name):
            with open(f"{certs}/{name}", "rb") as file:
                return file.read()

        credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("admin.key"), read("admin.pem"))
        self.channel = grpc.secure_channel(address, credentials)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def message(self, name, value=None):
        cls = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"zoneward.v1.{name}"))
        return json_format.ParseDict(value or {}, cls())

    def rpc(self, service, method):
        found = self.pool.FindServiceByName(f"zoneward.v1.{service}").FindMethodByName(method)
        answer = message_factory.GetMessageClass(found.output_type)
        kind = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
        call = getattr(self.channel, "_".join(kind))
        return call(
            f"/zoneward.v1.{service}/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=answer.FromString,
        )
