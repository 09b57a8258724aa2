//! The Glance shape of images: parse, call a verb, render.

pub(crate) mod data;
pub(crate) mod image;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod member;
pub(crate) mod patch;
pub(crate) mod schema;
pub(crate) mod view;
