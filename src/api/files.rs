//! The files of a zone's root: resumable uploads, and pages of entries.

use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    convert,
    request::{actor, bytes, call_of, invalid, page_size, uuid, uuid_at},
    status::status,
    vms::Vms,
};
use crate::{
    agent::{FileReply, Uploader},
    proto::{
        offset,
        v1::{self, put_file_request},
    },
    storage::UploadPlan,
};

/// Largest chunk of an upload.
const MAX_CHUNK: usize = 1 << 20;

impl Vms {
    pub(super) async fn put(
        &self,
        request: Request<Streaming<v1::PutFileRequest>>,
    ) -> Result<Response<v1::PutFileResponse>, Status> {
        let actor = actor(&request)?;
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.item);
        let Some(put_file_request::Item::Header(header)) = first else {
            return Err(invalid("header", "the first message must be the header"));
        };
        let uploader = self.begin_upload(actor, header)?;
        let file = receive(uploader, &mut stream).await?;
        Ok(Response::new(v1::PutFileResponse {
            file: Some(v1::FileEntry {
                path: file.path,
                r#type: v1::file_entry::Type::File.into(),
                size: offset(file.size),
                modified: Some(prost_types::Timestamp { seconds: file.modified, nanos: 0 }),
            }),
        }))
    }

    pub(super) async fn list(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let request = request.into_inner();
        let path = if request.path.is_empty() { "/".to_owned() } else { request.path };
        let limit = page_size(request.page_size)?;
        let list = self.agent.list_files(uuid(&request.uuid)?, path).await.map_err(status)?;
        // The token is the last path of the page before.
        let from = list.entries.partition_point(|entry| entry.path <= request.page_token);
        let page = list.entries[from..].iter().take(limit);
        let more = list.entries.len() > from + limit;
        let next_page_token =
            page.clone().next_back().filter(|_| more).map(|e| e.path.clone()).unwrap_or_default();
        let uploads = match request.page_token.as_str() {
            "" => list.uploads.into_iter().map(convert::upload).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(v1::ListFilesResponse {
            files: page.map(convert::file_entry).collect(),
            next_page_token,
            uploads,
        }))
    }

    fn begin_upload(&self, actor: String, header: v1::PutFileHeader) -> Result<Uploader, Status> {
        // The offset differs between tries of the same upload.
        let call = call_of(actor, "PutFile", v1::PutFileHeader { offset: 0, ..header.clone() })?;
        let vm: Uuid = uuid_at("header.uuid", &header.uuid)?;
        let plan =
            UploadPlan { path: header.path, size: bytes("header.size", header.size)?, sha256: header.sha256 };
        let offset = bytes("header.offset", header.offset)?;
        self.agent.put_file(call, vm, header.etag, plan, offset, header.overwrite).map_err(status)
    }
}

/// Forwards chunks until the client ends the upload or leaves.
async fn receive(
    uploader: Uploader,
    stream: &mut Streaming<v1::PutFileRequest>,
) -> Result<FileReply, Status> {
    loop {
        let chunk = match stream.next().await {
            None => return uploader.finish().await.map_err(status),
            Some(Ok(v1::PutFileRequest { item: Some(put_file_request::Item::Chunk(chunk)) })) => chunk,
            Some(Ok(_)) => {
                uploader.cut().await;
                return Err(invalid("chunk", "only chunks may follow the header"));
            }
            Some(Err(error)) => {
                uploader.cut().await;
                return Err(error);
            }
        };
        if chunk.len() > MAX_CHUNK {
            let size = chunk.len();
            uploader.cut().await;
            return Err(invalid("chunk", format!("{size} bytes is over the limit of {MAX_CHUNK}")));
        }
        if !uploader.chunk(chunk).await {
            return uploader.finish().await.map_err(status);
        }
    }
}
