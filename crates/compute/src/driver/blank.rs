//! Empty disk images: what copies are written into, and snapshots of machines that have no disk.

/// Bytes of a cluster, as a power of two: QEMU's default.
const CLUSTER_BITS: u32 = 16;

/// An empty qcow2 image of this virtual size, as `qemu-img create` makes it. Source: docs/interop/qcow2.txt of QEMU.
pub(super) fn qcow2(size: u64) -> Vec<u8> {
    let cluster = 1_u64 << CLUSTER_BITS;
    // An entry of the first table leads to a cluster of entries that lead to clusters.
    let entries = size.div_ceil(cluster * (cluster / 8)).max(1);
    let table_clusters = (entries * 8).div_ceil(cluster);
    let mut image = vec![0; ((3 + table_clusters) * cluster) as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &(entries as u32).to_be_bytes());
    put(40, &(3 * cluster).to_be_bytes());
    put(48, &cluster.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    // Reference counts of 16 bits; a header of 104 bytes.
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    put(cluster as usize, &(2 * cluster).to_be_bytes());
    for used in 0..3 + table_clusters {
        put((2 * cluster + 2 * used) as usize, &1_u16.to_be_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_its_size() {
        for size in [1, 1 << 30, 1 << 40] {
            let image = qcow2(size);
            assert_eq!(&image[24..32], size.to_be_bytes());
            assert!(image.len() < 1 << 20, "{} bytes", image.len());
        }
    }
}
