//! What the image crate does with the world around it: a real guest in a real QEMU, and Glance's API over a real store.

#[cfg(test)]
mod it {
    mod api;
    mod cloud;
    mod data;
    mod import;
    mod metadef;
    mod tiny;
}
