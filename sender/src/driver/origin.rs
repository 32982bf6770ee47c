//! Where the bytes of blocks come from.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;

use crate::library::Content;
use crate::node::{BlockId, MakeError};

/// What is served now. Cheap to clone: every order that is carried out has its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The files.
    pub(crate) content: Option<Arc<Content>>,
    /// The manifest's own objects, one block each.
    pub(crate) parts: Arc<HashMap<ObjectId, (Layout, Bytes)>>,
}

impl Origin {
    /// A file that an object's bytes come from, for people.
    pub(crate) fn path_of(&self, object: ObjectId) -> String {
        if self.parts.contains_key(&object) {
            return "(manifest)".to_owned();
        }
        let content = self.content.as_ref();
        let path = content.and_then(|content| content.path_of(content.manifest().index_of(object)?));
        path.map_or_else(|| "(hash list)".to_owned(), ToString::to_string)
    }

    /// A block's bytes, verified. Waits for the disk.
    pub(crate) fn read(&self, (object, block): BlockId) -> Result<(Layout, Bytes), MakeError> {
        if let Some(part) = self.parts.get(&object) {
            return Ok(part.clone());
        }
        let content = self.content.as_ref().ok_or(MakeError::NoSuchObject)?;
        let index = content.manifest().index_of(object).ok_or(MakeError::NoSuchObject)?;
        let record = content.manifest().object(index).ok_or(MakeError::NoSuchObject)?;
        let mut buffer = Vec::new();
        content.read_block(index, block, &mut buffer)?;
        Ok((record.layout, buffer.into()))
    }
}
