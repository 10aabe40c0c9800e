//! The gRPC edge: conversion, and the map from errors to status codes. No logic.

mod boot_stream;
mod budget;
mod console_service;
mod convert;
mod event_service;
mod files;
mod host_service;
mod image_service;
mod payload;
mod request;
mod server;
mod sight;
mod status;
mod vm_service;
mod vms;

pub use server::serve;
