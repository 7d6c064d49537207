//! Against a stand-in for the driver (testing/fake-cuda.c, compiled here): the order of calls, the bytes, the errors. What a real
//! driver and a real device do with them is not shown by it.

use std::path::PathBuf;
use std::process::Command;
use std::ptr;

use super::{Copier, Copy, Driver};

fn fake() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pilotlight-fake-cuda-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libcuda.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/testing/fake-cuda.c");
    let compiler = std::env::var("CC").unwrap_or("cc".into());
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success());
    library
}

/// One test, because the stand-in has the process's environment and state.
#[test]
fn copies_arrive_whole_and_in_pieces_and_what_is_not_there_is_said() {
    let missing = Driver::load_from("/nonexistent/libcuda.so.1")
        .err()
        .unwrap()
        .to_string();
    assert!(
        missing.starts_with("no CUDA driver on this machine"),
        "{missing}"
    );

    let library = fake();
    let open = || Driver::load_from(library.to_str().unwrap()).unwrap();
    let absent = Copier::open(open(), 3, 2).err().unwrap().to_string();
    assert!(absent.contains("no CUDA device 3"), "{absent}");
    assert!(Copier::open(open(), 0, 0).is_err());

    let mut copier = Copier::open(open(), 0, 2).unwrap();
    let mut source: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let (mut whole, mut pieces) = (vec![0u8; 4096], vec![0u8; 64 * 8]);
    copier
        .register(source.as_mut_ptr().cast(), source.len())
        .unwrap();
    let copy = |target: &mut Vec<u8>, run_bytes, stride_bytes, runs| Copy {
        target: target.as_mut_ptr() as u64,
        source: source.as_ptr().cast(),
        run_bytes,
        stride_bytes,
        runs,
        consumer: ptr::null_mut(),
    };
    unsafe {
        copier.copy(&copy(&mut whole, 4096, 4096, 1)).unwrap();
        copier.copy(&copy(&mut pieces, 8, 64, 64)).unwrap();
        assert!(copier.copy(&copy(&mut pieces, 8, 4, 2)).is_err());
    }
    copier.wait().unwrap();
    assert_eq!(whole, source);
    let expected: Vec<u8> = (0..64)
        .flat_map(|run| source[run * 64..run * 64 + 8].to_vec())
        .collect();
    assert_eq!(pieces, expected);
    drop(copier);
    std::fs::remove_dir_all(library.parent().unwrap()).unwrap();
}
