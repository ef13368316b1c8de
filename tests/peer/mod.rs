//! The real gateways (npm `clawdbot@2026.1.24-3`, protocol v3; npm `openclaw@2026.9.6`, protocol
//! v4) behind clawsec, with their own, unmodified command lines in front.

mod agents;
mod clawdbot;
mod command_line;
mod control_ui;
mod counterpart;
mod gateway;
mod methods;
mod nodes;
mod observer;
mod parser;
mod product;
mod routes;
mod same;
mod sandbox;
mod tools;
