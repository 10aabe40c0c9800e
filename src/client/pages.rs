//! Lists that come in pages.

use std::future::Future;

use tonic::{Response, Status};

use crate::proto::v1;

/// A page of a list.
pub trait Page {
    /// Its rows.
    type Row;
    /// Returns the rows and the token of the next page, empty if there is none.
    fn turn(self) -> (Vec<Self::Row>, String);
}

macro_rules! pages {
    ($($page:ident: $rows:ident of $row:ident;)*) => {$(
        impl Page for v1::$page {
            type Row = v1::$row;

            fn turn(self) -> (Vec<v1::$row>, String) {
                (self.$rows, self.next_page_token)
            }
        }
    )*};
}

pages! {
    ListVmsResponse: vms of Vm;
    ListEventsResponse: events of Event;
    ListFilesResponse: files of FileEntry;
    ListNicTagsResponse: nic_tags of NicTag;
    ListLeaksResponse: leaks of Leak;
    ListImagesResponse: images of Image;
}

/// Every row of a list; `ask` gets the token of each page.
pub async fn all<P: Page, F>(mut ask: impl FnMut(String) -> F) -> Result<Vec<P::Row>, Status>
where
    F: Future<Output = Result<Response<P>, Status>>,
{
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (rows, next) = ask(token).await?.into_inner().turn();
        all.extend(rows);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}
