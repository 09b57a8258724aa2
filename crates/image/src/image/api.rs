//! The Glance shape of images: parse, call a verb, render.

pub(crate) mod data;
pub(crate) mod image;
pub(crate) mod list;
pub(crate) mod member;
mod patch;
pub(crate) mod schema;
mod view;
