//! Lists of digests beside a file, as sites of cloud images publish them: `SHA256SUMS` and `SHA512SUMS`.

use reqwest::{Url, header::HeaderMap};

use super::{
    error::SourceError,
    http::{Http, at, read_whole},
};
use crate::spec::image::Digest;

/// Names of such lists.
const LISTS: [&str; 2] = ["SHA256SUMS", "SHA512SUMS"];

/// Finds a file's digest in the lists beside it.
pub(super) async fn beside(http: &Http, url: &Url) -> Result<Digest, SourceError> {
    let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
    for list in LISTS {
        let Ok(list) = url.join(list) else { continue };
        match http.get(&list, HeaderMap::new()).await {
            Ok(answer) => {
                let text = String::from_utf8_lossy(&read_whole(answer).await?).into_owned();
                if let Some(digest) = find(&text, &name) {
                    return Ok(digest);
                }
            }
            Err(SourceError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(SourceError::Refused(format!(
        "{}: nothing says which digest the file should have: no SHA256SUMS or SHA512SUMS beside it names it; give its digest",
        at(url)
    )))
}

/// A line is a digest, blanks, perhaps a star, and a name.
fn find(text: &str, name: &str) -> Option<Digest> {
    text.lines().find_map(|line| {
        let (digest, rest) = line.split_once(char::is_whitespace)?;
        let file = rest.trim_start().trim_start_matches('*').trim_end();
        (file.trim_start_matches("./") == name).then(|| digest.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_by_its_whole_name() {
        let (a, b) = ("a1".repeat(32), "b2".repeat(64));
        let text = format!("{a}  x.img\n{b} *debian.qcow2\nrubbish\n{a}  ./y.img\n");
        assert_eq!(find(&text, "debian.qcow2").unwrap().digits(), b);
        assert_eq!(find(&text, "y.img").unwrap().digits(), a);
        assert_eq!(find(&text, "img"), None);
        assert_eq!(find(&text, "rubbish"), None);
    }
}
